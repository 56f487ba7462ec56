// The live view in the page: an anywidget's module. It is made of these files, one after the other, in one
// module scope, without a build step:
//
//   uPlot.iife.min.js  live_data.js  live_chart.js  live_panel.js  live_input.js  live_controls.js
//   live_view.js  live.js
//
// and the style sheet of uPlot.min.css, live.css. Only this last file exports something.
//
// For each model one `Store` holds all data; a `View` draws it. What tests may rely on:
//   .llmlab-live            the root of a view, with data-looks, data-requests (held), data-paints (pictures
//                           drawn), data-from, data-to (the time shown, in seconds), data-state
//   .llmlab-state-word .llmlab-why .llmlab-time .llmlab-recording .llmlab-silence .llmlab-note
//   .llmlab-pause .llmlab-window-button .llmlab-sensors .llmlab-more .llmlab-stop .llmlab-leave   buttons
//   .llmlab-panel           a chart: .llmlab-panel-title, .llmlab-plot (with the canvas), .llmlab-sensor,
//                           .llmlab-legend-item with .llmlab-name and .llmlab-value, .llmlab-cursor
//   .llmlab-request         a request's button; .llmlab-key explains the shades
//   .llmlab-line            compact: a server's line with .llmlab-name, .llmlab-spark and .llmlab-value

/** At most so often is the kernel asked for what is missing. */
const NEED_MS = 1000;

/** What is known of one model, and the talk with its kernel. */
class Store {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.history = new History();
    this.requests = new Requests();
    this.spec = readSpec(model.get("spec"));
    this.stopping = false;
    this.lastNews = performance.now();
    this.lastNeed = -Infinity;
    this.load(model.get("hist"));
    this.requests.add(model.get("requests"));
    this.onSpec = () => this.respec();
    this.onMessage = (message, buffers) => this.receive(message, buffers ?? []);
    model.on("change:spec", this.onSpec);
    model.on("msg:custom", this.onMessage);
    model.send({ t: "hello" });
    if (this.history.version !== this.spec.version) this.need();
  }

  destroy() {
    clearTimeout(this.needTimer);
    this.model.off("change:spec", this.onSpec);
    this.model.off("msg:custom", this.onMessage);
    for (const view of this.views) view.destroy();
  }

  receive(message, buffers) {
    this.lastNews = performance.now();
    if (message?.t === "requests") this.requests.add(message.items);
    else if (message?.t === "history") this.load(buffers[0]);
    else if (message?.t === "append") this.append(message, buffers[0]);
    for (const view of this.views) view.arrived(message?.t === "requests");
  }

  append(message, buffer) {
    const { v, seq, n } = message;
    if (v !== this.spec.version || !this.history.append(v, seq, n, buffer)) this.need();
  }

  /** Take a history, if it is one of the rows at hand. */
  load(buffer) {
    if (!buffer || !this.history.replace(buffer, this.spec.version, this.spec.rows.length)) return;
    clearTimeout(this.needTimer);
    this.needTimer = undefined;
  }

  respec() {
    const before = this.spec;
    this.spec = readSpec(this.model.get("spec"));
    this.lastNews = performance.now();
    if (this.spec.state !== "live") this.stopping = false;
    if (this.spec.version !== before.version) this.history.remap(before.rows, this.spec.rows);
    for (const view of this.views) view.respec();
  }

  /** Ask for the history: now, or when the last time is long enough ago and it is still missing. */
  need() {
    if (this.needTimer) return;
    const wait = this.lastNeed + NEED_MS - performance.now();
    if (wait > 0) {
      this.needTimer = setTimeout(() => {
        this.needTimer = undefined;
        this.need();
      }, wait);
      return;
    }
    this.lastNeed = performance.now();
    this.model.send({ t: "need" });
  }

  stop() {
    this.stopping = true;
    this.model.send({ t: "stop" });
    for (const view of this.views) view.refresh();
  }
}

export default () => {
  /** @type {?Store} */
  let store = null;
  return {
    initialize({ model }) {
      store = new Store(model);
      return () => store.destroy();
    },
    render({ model, el }) {
      store ??= new Store(model);
      const view = new View(store, el);
      store.views.add(view);
      return () => {
        store.views.delete(view);
        view.destroy();
      };
    },
  };
};
