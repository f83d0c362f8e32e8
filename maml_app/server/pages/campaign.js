/* The campaign's page: its buttons ask the server, and what it shows is fetched anew every few seconds. */
'use strict';

const EVERY_MS = 10000;
const told = document.getElementById('told');

function tell(text, type = 'info') {
  told.textContent = text;
  told.dataset.type = type;
}

async function refresh() {
  const answer = await fetch('/', { headers: { Accept: 'text/html' } });
  if (!answer.ok || answer.redirected) {
    throw new Error(answer.redirected ? 'Log in again.' : `The server answered ${answer.status}.`);
  }
  const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
  document.getElementById('live').replaceWith(fresh.getElementById('live'));
}

async function press(button) {
  const body = JSON.parse(button.dataset.body);
  if (button.dataset.ask) {
    const said = window.prompt(button.dataset.question);
    if (!said) {
      return;
    }
    body[button.dataset.ask] = said;
  }
  button.disabled = true;
  try {
    const options = { method: button.dataset.method, headers: { 'Content-Type': 'application/json' } };
    if (options.method !== 'DELETE') {
      options.body = JSON.stringify(body);
    }
    const answer = await fetch(button.dataset.path, options);
    if (!answer.ok) {
      throw new Error((await answer.json()).detail);
    }
    tell(`${button.textContent}: done.`);
    await refresh();
  } catch (error) {
    tell(error.message, 'error');
  } finally {
    button.disabled = false;
  }
}

document.addEventListener('click', event => {
  const button = event.target.closest('button[data-path]');
  if (button) {
    void press(button);
  }
});

setInterval(() => {
  if (!document.hidden) {
    refresh().catch(error => tell(error.message, 'error'));
  }
}, EVERY_MS);
