// The local server that provides the avatar: its state is asked for every two seconds.

const EVERY_MS = 2000;
const PATIENCE = 3;

export class Server {
  /**
   * changed(state): see `specularip.viewer.server` for its fields; called for every answer. lost(): the
   * server has not answered PATIENCE times; changed is called again if it comes back.
   */
  constructor(changed, lost) {
    this.changed = changed;
    this.lost = lost;
    this.failures = 0;
  }

  async watch() {
    for (;;) {
      if (!document.hidden) await this.#ask();
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
  }

  async #ask() {
    let state;
    try {
      state = await (await answer("state.json")).json();
    } catch {
      if (++this.failures === PATIENCE) this.lost();
      return;
    }
    this.failures = 0;
    await this.changed(state);
  }
}

/** The packed avatar, an ArrayBuffer. */
export async function fetchPacked(version) {
  return (await answer(`avatar.pack?v=${version}`)).arrayBuffer();
}

/** The text of the self-contained page. */
export async function fetchPage() {
  return (await answer("share.html")).text();
}

async function answer(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(120_000) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}
