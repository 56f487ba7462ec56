// The chat in the page: an anywidget's module, made of chat_reply.js and this file, one after the other.
//
// The kernel sends what is new (began, append, reply, items); the page sends what is typed and clicked
// (say, stop, set, clear, export). What tests may rely on:
//   .llmlab-chat                root of a view, with data-busy
//   .llmlab-c-input, -send, -stop, -settings-button, -markdown, -probabilities, -export-md, -export-json, -clear
//   .llmlab-c-exchange          with .llmlab-c-prompt and, for each server, .llmlab-c-reply[data-state]
//   .llmlab-c-body, .llmlab-c-note, .llmlab-c-chip, .llmlab-c-token[data-level], .llmlab-c-told, .llmlab-c-status

const FIELDS = [
  ["temperature", "temperature", { type: "number", min: 0, max: 2, step: 0.1 }, "0 picks the likeliest token each time"],
  ["top_p", "top p", { type: "number", min: 0.01, max: 1, step: 0.05, placeholder: "engine’s" }, "choose from the likeliest tokens that together have this probability"],
  ["max_tokens", "max tokens", { type: "number", min: 1, step: 1, placeholder: "512" }, "most tokens of an answer"],
  ["seed", "seed", { type: "number", min: 0, step: 1, placeholder: "new" }, "the same seed gives the same answer again"],
];
/** So near to its end, a conversation follows what is added. */
const NEAR_PX = 60;

/** What is known of one model, shared by its views. */
class Talk {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.draft = "";
    this.mode = { markdown: true, probabilities: Boolean(model.get("spec").settings?.probabilities) };
    this.items = structuredClone(model.get("items") ?? []);
    this.onMessage = (message) => this.receive(message);
    this.onSpec = () => this.each((view) => view.respec());
    model.on("msg:custom", this.onMessage);
    model.on("change:spec", this.onSpec);
    model.send({ t: "hello" });
  }

  each(tell) {
    for (const view of this.views) tell(view);
  }

  destroy() {
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change:spec", this.onSpec);
    this.each((view) => view.destroy());
  }

  receive(message) {
    const { t, n, c } = message ?? {};
    if (t === "items") {
      this.items = message.items;
      this.each((view) => view.redraw());
    } else if (t === "began") {
      if (n > this.items.length) return this.model.send({ t: "need" });
      this.items[n] = message.item;
      this.each((view) => view.begin(n));
    } else if (t === "reply") {
      if (!this.items[n]) return this.model.send({ t: "need" });
      this.items[n].replies[c] = message.reply;
      this.each((view) => view.reply(n, c)?.update(message.reply));
    } else if (t === "append") {
      if (!this.items[n]) return this.model.send({ t: "need" });
      // Views share the reply: the first adds the text to it, and it is added once.
      const reply = this.items[n].replies[c];
      const text = reply.text;
      this.each((view) => {
        reply.text = text;
        view.reply(n, c)?.append(message.text);
      });
      reply.text = text + message.text;
    } else if (t === "exported") this.save(message.name, message.text);
    this.each((view) => view.arrived(message));
  }

  /** Offer a text as a file. */
  save(name, text) {
    const address = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    make("a", "", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}

/** One view of it. */
class ChatPage {
  constructor(talk, el) {
    this.talk = talk;
    this.replies = [];
    this.build();
    el.append(this.node);
    // What readers of the file see stands in an output of its own: not here.
    const key = talk.model.get("spec").key;
    this.hiding = make("style", "", {}, `.jp-OutputArea-child:has([data-llmlab-chat="${key}"]), [data-llmlab-chat="${key}"] { display: none; }`);
    document.head.append(this.hiding);
    this.redraw();
    this.respec();
  }

  destroy() {
    this.hiding.remove();
    this.node.remove();
  }

  send(message) {
    try {
      this.talk.model.send(message);
      this.status.textContent = "";
    } catch {
      // A conversation lives in its kernel, and that has been restarted.
      this.status.textContent = "The kernel has ended, and this conversation with it; run the cell again for a new one.";
    }
  }

  button(name, words, title, act) {
    const button = make("button", `llmlab-c-button llmlab-c-${name}`, { type: "button", title }, words);
    button.addEventListener("click", act);
    return button;
  }

  toggle(name, words, title, act) {
    const button = this.button(name, words, title, () => {
      const pressed = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(pressed));
      act(pressed);
    });
    return button;
  }

  build() {
    const { mode } = this.talk;
    this.title = make("strong", "llmlab-c-title");
    this.models = make("span", "llmlab-c-models");
    this.markdown = this.toggle("markdown", "Markdown", "Show answers as Markdown, or as they were written", (on) => {
      mode.markdown = on;
      this.talk.each((view) => view.redrawReplies());
    });
    this.probabilities = this.toggle("probabilities", "Probabilities", "Ask how likely each token is, and show it", (on) => {
      mode.probabilities = on;
      this.send({ t: "set", settings: { probabilities: on } });
      this.talk.each((view) => view.redrawReplies());
    });
    this.unfold = this.button("settings-button", "Settings", "System prompt, temperature and the like", () => {
      this.settings.hidden = !this.settings.hidden;
      this.unfold.setAttribute("aria-expanded", String(!this.settings.hidden));
    });
    this.unfold.setAttribute("aria-expanded", "false");
    const bar = make(
      "div", "llmlab-c-bar", {}, this.title, this.models,
      make("span", "llmlab-c-tools", {}, this.markdown, this.probabilities, this.unfold,
        this.button("export-md", "Export .md", "Save the conversation as Markdown", () => this.send({ t: "export", as: "md" })),
        this.button("export-json", ".json", "Save the conversation with all figures, as JSON", () => this.send({ t: "export", as: "json" })),
        this.button("clear", "Clear", "Begin anew", () => this.send({ t: "clear" }))),
    );
    this.log = make("div", "llmlab-c-log", { role: "log", "aria-live": "polite", "aria-label": "conversation", tabindex: "0" });
    this.following = true;
    this.log.addEventListener("scroll", () => {
      this.following = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR_PX;
    });
    this.empty = make("div", "llmlab-c-empty", {}, "Ask something. What was said before is sent along.");
    this.input = make("textarea", "llmlab-c-input", { rows: "1", placeholder: "Ask…", "aria-label": "question; Enter sends, Shift and Enter begins a new line" });
    this.input.value = this.talk.draft;
    this.input.addEventListener("input", () => this.typed());
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.say();
    });
    this.sendButton = this.button("send", "Send", "Send (Enter)", () => this.say());
    this.stopButton = this.button("stop", "Stop", "Stop the answer", () => this.send({ t: "stop" }));
    this.status = make("div", "llmlab-c-status", { role: "status" });
    this.unsaved = make("div", "llmlab-c-status llmlab-c-unsaved", {}, "The page was loaded anew: what is said from now on is not in the saved notebook. Export it, or show the chat in another cell.");
    const line = make("div", "llmlab-c-line", {}, this.input, this.sendButton, this.stopButton);
    // JupyterLab's keys, such as A and DD, are none here.
    this.node = make("div", "llmlab-chat", { "data-lm-suppress-shortcuts": "true" }, bar, this.buildSettings(), this.log, this.unsaved, this.status, line);
    this.node.addEventListener("keydown", (event) => event.stopPropagation());
  }

  buildSettings() {
    this.fields = {};
    const fields = FIELDS.map(([name, words, attributes, title]) => {
      const input = make("input", `llmlab-c-field-${name}`, { ...attributes, title });
      input.addEventListener("change", () => {
        if (!input.reportValidity()) return;
        this.send({ t: "set", settings: { [name]: input.value === "" ? (name === "temperature" ? 0.2 : null) : Number(input.value) } });
      });
      this.fields[name] = input;
      return make("label", "llmlab-c-field", {}, make("span", "", {}, words), input);
    });
    this.system = make("textarea", "llmlab-c-field-system", { rows: "2", placeholder: "none" });
    this.system.addEventListener("change", () => this.send({ t: "set", settings: { system: this.system.value } }));
    const system = make("label", "llmlab-c-field llmlab-c-wide", {}, make("span", "", {}, "system prompt"), this.system);
    this.settings = make("div", "llmlab-c-settings", { role: "group", "aria-label": "settings of the next question" }, system, ...fields);
    this.settings.hidden = true;
    return this.settings;
  }

  typed() {
    this.talk.draft = this.input.value;
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight + 2, 160)}px`;
    this.sendButton.disabled = this.busy || !this.input.value.trim();
  }

  say() {
    if (this.busy || !this.input.value.trim()) return;
    this.send({ t: "say", text: this.input.value });
    this.input.value = "";
    this.following = true;
    this.typed();
  }

  respec() {
    const spec = this.talk.model.get("spec");
    this.busy = spec.busy;
    this.node.dataset.busy = String(spec.busy);
    this.title.textContent = `Chat with ${spec.servers.map((server) => server.name).join(" and ")}`;
    this.models.textContent = spec.servers.map((server) => server.model).join(" · ");
    this.markdown.hidden = !spec.markdown;
    this.unsaved.hidden = !spec.unsaved;
    this.markdown.setAttribute("aria-pressed", String(this.talk.mode.markdown));
    this.probabilities.setAttribute("aria-pressed", String(this.talk.mode.probabilities));
    for (const [name, field] of [...Object.entries(this.fields), ["system", this.system]])
      if (document.activeElement !== field) field.value = spec.settings[name] ?? "";
    // Where the focus is on a button that goes, it goes on to the other.
    const focused = [this.sendButton, this.stopButton].includes(document.activeElement);
    this.sendButton.hidden = spec.busy;
    this.stopButton.hidden = !spec.busy;
    if (focused) (spec.busy ? this.stopButton : this.input).focus();
    this.node.querySelector(".llmlab-c-clear").disabled = spec.busy;
    this.stopping();
    this.typed();
  }

  stopping() {
    const states = this.talk.items.at(-1)?.replies.map((reply) => reply.state) ?? [];
    const going = this.busy && states.includes("stopping");
    this.stopButton.disabled = going;
    this.stopButton.textContent = going ? "Stopping…" : "Stop";
  }

  redraw() {
    this.replies = [];
    this.log.replaceChildren();
    this.following = true;
    this.talk.items.forEach((_, n) => this.begin(n));
    if (!this.talk.items.length) this.log.append(this.empty);
  }

  redrawReplies() {
    for (const row of this.replies) for (const reply of row) reply.draw();
    this.respec();
  }

  begin(n) {
    if (this.replies[n]) return;
    this.empty.remove();
    const item = this.talk.items[n];
    const views = item.replies.map((reply) => new ReplyView(reply, this.talk.mode));
    this.replies[n] = views;
    const prompt = make("div", "llmlab-c-prompt", {}, make("span", "llmlab-c-you", {}, "You"), make("div", "llmlab-c-asked", {}, item.prompt));
    const columns = make("div", "llmlab-c-columns", {}, ...views.map((view) => view.node));
    columns.dataset.columns = views.length;
    this.log.append(make("div", "llmlab-c-exchange", {}, prompt, columns));
    this.follow();
  }

  reply(n, c) {
    return this.replies[n]?.[c];
  }

  arrived(message) {
    if (message.t === "refused") this.status.textContent = message.text;
    if (message.t === "exported") this.status.textContent = `saved as ${message.name}`;
    if (message.t === "reply" && message.reply.state === "stopped") this.status.textContent = message.reply.note;
    this.stopping();
    this.follow();
  }

  /** Stay at the end, unless somebody has scrolled away from it. */
  follow() {
    if (this.following) this.log.scrollTop = this.log.scrollHeight;
  }
}

export default () => {
  /** @type {?Talk} */
  let talk = null;
  return {
    initialize({ model }) {
      talk = new Talk(model);
      return () => talk.destroy();
    },
    render({ model, el }) {
      talk ??= new Talk(model);
      const page = new ChatPage(talk, el);
      talk.views.add(page);
      return () => {
        talk.views.delete(page);
        page.destroy();
      };
    },
  };
};
