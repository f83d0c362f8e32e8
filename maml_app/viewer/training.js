/** A training, followed to its end. */

import { ask, askJson, post } from './server.js';

const EVERY_MS = 5000;

export class Training {
  constructor(app) {
    this.app = app;
    this.going = false;
    this.timer = 0;
  }

  /** Begin one, or stop the one that goes on. */
  async press() {
    const { task, tell } = this.app;
    if (this.going) {
      await ask('/train/', { method: 'DELETE' });
      tell('Training is being stopped.');
      return;
    }
    await ask(`/train/${task.model}`, post({}));
    tell('Training has begun.');
    void this.follow(true);
  }

  /** Say how far it is, until it has ended; then what became of it. */
  async follow(begun = false) {
    const { task, box, work, tell } = this.app;
    clearTimeout(this.timer);
    const stats = (await askJson('/info/').catch(() => ({}))).train_stats || {};
    const last = (stats[task.model] || {}).last_run || {};
    const state = await askJson('/train/').catch(() => null);
    this.going = Boolean(state) && ['SUBMITTED', 'RUNNING'].includes(state.status);
    box.train.textContent = this.going ? 'Stop training' : 'Train';
    if (this.going) {
      const { stage = 'starting', done = 0, total = 0, seconds_left: left } = last.progress || {};
      const minutes = left ? `, ${(left / 60).toFixed(1)} min left` : '';
      box.training.textContent = ` Training: ${stage} ${done}/${total || '?'}${minutes}`;
      this.timer = setTimeout(() => void this.follow(true), EVERY_MS);
      return;
    }
    box.training.textContent = '';
    if (begun && state) {
      const lines = (state.details || []).join('\n');
      const told = lines.match(/(published v\d+|worse than [^\n]*|Training failed[^\n]*)/g);
      work.known.clear();
      tell(`Training has ended: ${told ? told.pop() : state.status.toLowerCase()}.`, 'success');
      await this.app.refresh();
    }
  }
}
