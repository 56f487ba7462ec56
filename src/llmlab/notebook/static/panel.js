// The control panel in the page: an anywidget's module, made of these files in one module scope, without a build step:
//
//   panel_parts.js  panel_start.js  panel_running.js  panel_results.js  panel.js
//
// The page holds what is being filled in, and nothing else: all that is shown comes from the kernel, and all that is
// clicked is sent there. What tests may rely on:
//   .llmlab-panel                     the root, with data-news (messages of figures that have come)
//   .llmlab-p-model[data-model]       a model's row; .llmlab-p-start, .llmlab-p-cancel; .llmlab-p-verdict
//   .llmlab-p-line .llmlab-p-code     the equivalent lines: magic, then Python
//   .llmlab-p-card[data-server]       a server's card, with data-state; .llmlab-p-chat, -logs, -audit, -compare, -stop
//   .llmlab-p-result[data-verb]       a result, with data-state; .llmlab-p-close
//   .llmlab-p-remarks                 what happened without a click here

/** So often it says that it is seen. */
const SEEN_MS = 5000;
/** A click that was not heard for so long waits for a cell to end. */
const UNHEARD_MS = 1500;
const SILENT_MS = 15000;

class PanelPage {
  constructor(model, el) {
    this.model = model;
    this.id = `p${Math.random().toString(36).slice(2, 10)}`;
    this.visible = false;
    this.newest = performance.now();
    this.news = 0;
    this.waiting = new Map(); // what was clicked and not heard yet → when
    this.root = element("div", "llmlab-panel");
    this.root.setAttribute("role", "region");
    this.root.setAttribute("aria-label", "llmlab control panel");
    // The notebook's own shortcuts (d d deletes a cell) are not meant here.
    this.root.dataset.lmSuppressShortcuts = "true";
    this.root.addEventListener("keydown", (event) => event.stopPropagation());
    this.start = new StartSection(this);
    this.running = new RunningSection(this);
    this.results = new ResultsSection(this);
    this.root.append(this.header(), this.start.node, this.running.node, this.results.node);
    this.hideSaved();
    this.listen();
    el.append(this.root);
    for (const name of ["known", "servers", "starting", "results"]) this.refresh(name);
  }

  header() {
    const head = element("header", "llmlab-p-head");
    this.conditions = element("div", "llmlab-p-conditions");
    this.free = element("span", "llmlab-p-free");
    const look = () => this.send({ t: "look" });
    const again = button("Look again", look, { kind: "llmlab-p-small", label: "look at this machine again" });
    const side = element("span", "llmlab-p-side");
    side.append(this.free, again);
    head.append(element("strong", "llmlab-p-title", "llmlab"), this.conditions, side);
    this.silence = element("div", "llmlab-p-silence");
    this.silence.setAttribute("role", "status");
    this.silence.hidden = true;
    this.problems = element("div", "llmlab-p-problems");
    const box = element("div");
    box.append(head, this.silence, this.problems);
    return box;
  }

  // The talk with the kernel.

  listen() {
    this.handlers = ["known", "servers", "starting", "results", "remarks", "trouble"].map((name) => {
      const changed = () => this.refresh(name);
      this.model.on(`change:${name}`, changed);
      return [`change:${name}`, changed];
    });
    const received = (message) => this.receive(message);
    this.model.on("msg:custom", received);
    this.handlers.push(["msg:custom", received]);
    this.intersection = new IntersectionObserver((entries) => {
      this.visible = entries.at(-1).isIntersecting;
      this.seen();
    });
    this.intersection.observe(this.root);
    this.sizes = new ResizeObserver(([entry]) => {
      this.root.classList.toggle("llmlab-p-narrow", entry.contentRect.width < 620);
    });
    this.sizes.observe(this.root);
    this.onVisibility = () => this.seen();
    document.addEventListener("visibilitychange", this.onVisibility);
    this.heartbeat = setInterval(() => this.isSeen() && this.seen(), SEEN_MS);
    this.clock = setInterval(() => this.tick(), 1000);
    this.tell({ t: "seen", on: true, new: true });
  }

  isSeen() {
    return this.visible && !document.hidden;
  }

  seen() {
    const on = this.isSeen();
    if (on && !this.wasSeen) this.newest = performance.now();
    this.tell({ t: "seen", on, new: on && this.wasSeen === false });
    this.wasSeen = on;
  }

  /** Tell the kernel what was clicked or filled in. */
  send(message) {
    this.waiting.set(`${message.t} ${message.server ?? ""}`, performance.now());
    this.tell(message);
  }

  tell(message) {
    try {
      this.model.send({ ...message, view: this.id });
    } catch {
      // The kernel has been restarted, and there is nobody to tell; that nothing comes any more is said.
    }
  }

  receive(message) {
    this.newest = performance.now();
    switch (message?.t) {
      case "figures":
        this.news += 1;
        this.root.dataset.news = this.news;
        say(this.free, `${message.free} of ${this.model.get("known").total ?? ""} memory free`);
        this.running.append(message.at, message.rows);
        break;
      case "history":
        this.running.history(message.rows);
        break;
      case "checked":
        if (message.view === this.id) this.start.checked(message);
        break;
      case "heard":
        if (message.view !== this.id) break;
        this.waiting.delete(`${message.what} ${message.server}`);
        if (message.what === "chat") this.showChat();
        break;
    }
    this.tick();
  }

  refresh(name) {
    this.newest = performance.now();
    if (name === "known") {
      this.refreshConditions();
      this.start.refreshKnown();
    } else if (name === "starting") this.start.refreshStarting();
    else if (name === "results") this.results.refresh();
    else this.running.refresh();
  }

  refreshConditions() {
    const { conditions = [], total } = this.model.get("known");
    this.conditions.replaceChildren(
      ...conditions.map((each) => {
        const chip = element("span", "llmlab-p-condition");
        const words = each.word === "ready" ? `${each.name} ready` : each.word.includes(" ") ? each.word : `${each.name} ${each.word}`;
        chip.append(marked(each.state, words));
        chip.title = [each.seen, each.why, ...each.fix].filter(Boolean).join("\n");
        return chip;
      }),
    );
    if (total && !this.free.textContent) say(this.free, `${total} memory`);
    this.problems.replaceChildren(
      ...conditions
        .filter((each) => each.state === "fail" || (each.state === "warning" && each.fix.length && each.word !== "ready"))
        .map((each) => {
          const hint = [each.seen, each.why].filter(Boolean).join("; ");
          return problem(each.state === "fail" ? "bad" : "warn", `${each.name}: ${each.word}`, hint, each.fix);
        }),
    );
  }

  /** A second has passed, or something was heard. */
  tick() {
    this.running.tick();
    const now = performance.now();
    const unheard = [...this.waiting.values()].some((at) => now - at > UNHEARD_MS);
    const silent = this.isSeen() && now - this.newest > SILENT_MS;
    const words = silent
      ? `No news for ${durationText((now - this.newest) / 1000)}: the kernel is gone or cannot answer. What runs goes on; %llm panel shows it again.`
      : unheard
        ? "The kernel is busy with a cell: what you clicked is done when that has ended."
        : "";
    say(this.silence, words);
    this.silence.hidden = !words;
  }

  /** A chat opens below the panel: bring it into sight when it is there. */
  showChat(tries = 20) {
    const found = this.root.closest(".jp-OutputArea-output")?.querySelector(".llmlab-chat");
    if (found) found.scrollIntoView({ block: "nearest" });
    else if (tries) setTimeout(() => this.showChat(tries - 1), 150);
  }

  /** While there is a panel, the form of it that stands in the file is not shown. */
  hideSaved() {
    this.sheet = element("style", "", savedRule(this.model.get("token")));
    document.head.append(this.sheet);
  }

  destroy() {
    this.tell({ t: "seen", on: false });
    for (const [event, handler] of this.handlers) this.model.off(event, handler);
    this.intersection.disconnect();
    this.sizes.disconnect();
    document.removeEventListener("visibilitychange", this.onVisibility);
    clearInterval(this.heartbeat);
    clearInterval(this.clock);
    clearTimeout(this.start.timer);
    this.sheet.remove();
    this.root.remove();
  }
}

function savedRule(id) {
  return `.jp-OutputArea-child:has(.llmlab-panel-saved-${id}), .llmlab-panel-saved-${id} { display: none !important; }`;
}

export default {
  render({ model, el }) {
    const page = new PanelPage(model, el);
    return () => page.destroy();
  },
};
