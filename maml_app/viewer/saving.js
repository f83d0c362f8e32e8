/** Saving: drafts meanwhile, a save that is refused loses nothing, and a person chooses where two labels meet. */

import { Refused, ask, askJson, post } from './server.js';
import { question, showVersions } from './panel.js';
import { inWords } from './work.js';

export class Saving {
  constructor(app) {
    this.app = app;
  }

  async keepDraft() {
    if (await this.app.work.keepDraft()) {
      this.app.showSaved(`a draft was kept ${new Date().toLocaleTimeString()}`);
    }
  }

  /** Whether unsaved work may go; asks if there is any. */
  async mayLeave(what) {
    const { work, box } = this.app;
    if (!work.dirty) {
      return true;
    }
    const answer = await question(box, `Your drawing is not saved. ${what}`, ['Save first', 'Drop it', 'Go back']);
    if (answer === 0) {
      await this.store();
    } else if (answer === 1) {
      await work.drop();
    }
    return !work.dirty;
  }

  async store(nothingThere = false) {
    const { work, tell } = this.app;
    if (!work.planes()) {
      throw new Error('There is nothing to save yet: segment the series, or start empty.');
    }
    tell('Saving …');
    await work.keeping; // a draft that arrives after the label would come back as unsaved
    let answer;
    try {
      answer = await askJson(`/maml/series/${work.editing}/label`, work.form(nothingThere));
    } catch (error) {
      if (error instanceof Refused && error.status === 409 && error.details.conflict) {
        await this.conflict(error.details);
        return;
      }
      throw new Error(`Not saved, your drawing is still here: ${error.message}`);
    }
    const said = Object.entries(answer.volume_ml).map(([name, ml]) => `${name} ${ml} ml`);
    const label = answer.label.split('@')[1];
    await this.saved(label, `Saved as the label of this case, on ${answer.modality}: ${said.join(', ')}.`);
  }

  /** All series show what counts now. */
  async saved(label, message) {
    const { work, tell } = this.app;
    work.dirty = false;
    work.known.clear();
    const info = await work.info(work.editing, true);
    await work.load(label);
    work.begin(work.editing, { words: info.label ? inWords(info.label) : '', parent: label, proposal: '', model: '' });
    await this.listVersions();
    tell(message, 'success');
    if (this.app.box.onward.checked) {
      await this.app.cases.next('', true);
    }
  }

  async conflict(details) {
    const { work, box, tell } = this.app;
    if (details.conflict === 'empty') {
      if ((await question(box, details.detail, ['Nothing is there', 'Go back'])) === 0) {
        await this.store(true);
      }
      return;
    }
    const answer = await question(box, details.detail, ['Keep mine', 'Keep theirs', 'Look at theirs']);
    const path = `/maml/cases/${details.case}/labels/${details.mine}/choose`;
    await work.dropDraft(); // the server has the drawing as a label
    if (answer === 0) {
      await this.keepMine(path, details);
    } else if (answer === 1) {
      await ask(path, post({ keep: false }));
      work.known.clear();
      await this.app.cases.openNewest(await work.info(work.study.reference, true));
      tell(`${details.theirs} stays the label of this case.`);
    } else if (answer === 2) {
      await work.load(details.theirs);
      work.begin(work.editing, { words: details.theirs, parent: details.theirs, proposal: '', model: '' });
      tell(`This is ${details.theirs}. Yours is kept as ${details.mine}: open it from the versions.`);
    }
  }

  /** Their own in place of the label that they were told of; is there a newer one by now, they are asked anew. */
  async keepMine(path, details) {
    let kept;
    try {
      kept = await askJson(path, post({ keep: true, replaces: details.theirs }));
    } catch (error) {
      if (error instanceof Refused && error.status === 409 && error.details.conflict) {
        await this.conflict(error.details);
        return;
      }
      throw error;
    }
    const label = kept.label.split('@')[1];
    await this.saved(label, `${label} is the label of this case now.`);
  }

  /** The earlier versions, newest first. */
  async listVersions() {
    const { work, box } = this.app;
    const history = await askJson(`/maml/cases/${work.study.case}/history`).catch(() => []);
    const shown = history.map(row => {
      const changed = Object.values(row.changes).reduce((sum, change) => sum + change.ml, 0);
      return { id: row.label, words: inWords({ ...row, changed_ml: changed ? changed.toFixed(2) : null }) };
    });
    showVersions(box, shown.reverse());
  }
}
