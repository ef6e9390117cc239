// Lets the site's search work from disk: a browser starts no Worker for a page that is a file. There
// the search runs in a hidden frame of the page, which has what the script expects of a Worker.
"use strict";
if (location.protocol === "file:") {
  const load = (page, url) =>
    new Promise((done, failed) => {
      const script = page.createElement("script");
      script.src = url;
      script.onload = done;
      script.onerror = failed;
      page.body.append(script);
    });

  class FrameWorker extends EventTarget {
    #waiting = [];
    #inside = null;

    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      const page = frame.contentDocument;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = async (...urls) => {
        for (const one of urls) await load(page, one);
      };
      load(page, new URL(url, location.href).href).then(() => {
        this.#inside = inside;
        for (const data of this.#waiting.splice(0)) this.postMessage(data);
      });
    }

    postMessage(data) {
      if (this.#inside === null) this.#waiting.push(data);
      else this.#inside.dispatchEvent(new MessageEvent("message", { data }));
    }
  }

  // The theme looks for this name to know where its scripts lie.
  window.IFrameWorker = FrameWorker;
  window.Worker = FrameWorker;
}
