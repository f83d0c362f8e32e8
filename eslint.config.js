// What eslint asks of the viewer's extension and of the pages: plain JavaScript, as the browser runs it.
const browser = [
  'window',
  'document',
  'fetch',
  'FormData',
  'Blob',
  'TextDecoder',
  'MutationObserver',
  'URL',
  'DOMParser',
];
browser.push('AbortController', 'Response', 'setTimeout', 'setInterval', 'clearTimeout', 'clearInterval');

export default [
  {
    files: ['maml_app/viewer/*.js', 'maml_app/server/pages/*.js', 'tests/viewer/*.js'],
    languageOptions: {
      ecmaVersion: 2022,
      sourceType: 'module',
      globals: Object.fromEntries(browser.map(name => [name, 'readonly'])),
    },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      'no-undef': 'error',
      'no-unused-vars': 'error',
      'no-use-before-define': ['error', { functions: false, variables: false }],
      'prefer-const': 'error',
      'no-var': 'error',
      eqeqeq: 'error',
      curly: 'error',
      'no-shadow': 'error',
      'no-empty': 'error',
      'no-unreachable': 'error',
      'no-fallthrough': 'error',
      'require-atomic-updates': 'off',
      'max-len': ['error', { code: 120 }],
    },
  },
];
