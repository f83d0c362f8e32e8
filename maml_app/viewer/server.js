/** Asking the server: every answer that is none becomes an error with the server's own sentence. */

/** An answer other than 2xx: `message` is the server's sentence, `details` all that it said. */
export class Refused extends Error {
  constructor(status, details) {
    const said = details.detail;
    super(typeof said === 'string' ? said : JSON.stringify(said || details));
    this.status = status;
    this.details = details;
  }
}

export async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    throw error.name === 'AbortError' ? error : new Error('The server cannot be reached.');
  }
  if (answer.ok) {
    return answer;
  }
  const text = await answer.text();
  let details = { detail: text };
  try {
    details = JSON.parse(text);
  } catch {
    // not JSON: shown as it is
  }
  throw new Refused(answer.status, details);
}

export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

export function post(body) {
  return { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
}

/** Voxels of an uncompressed uint8 NRRD file. */
export function nrrdVoxels(buffer) {
  const bytes = new Uint8Array(buffer);
  let end = 0;
  while (end + 1 < bytes.length && !(bytes[end] === 10 && bytes[end + 1] === 10)) {
    end += 1;
  }
  const header = new TextDecoder().decode(bytes.subarray(0, end));
  const sizes = (header.match(/^sizes: (.*)$/m) || ['', ''])[1].trim().split(/\s+/).map(Number);
  const voxels = bytes.subarray(end + 2);
  if (!/^encoding: raw$/m.test(header) || sizes.length !== 3 || voxels.length !== sizes[0] * sizes[1] * sizes[2]) {
    throw new Error('The server sent a mask that cannot be read.');
  }
  return voxels;
}
