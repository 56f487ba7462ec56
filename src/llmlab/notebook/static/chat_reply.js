// A reply in the page: its text while it comes, then as Markdown or as it is, or token by token.
//
// What a model wrote is only ever set as text, but for `reply.html`: that was made in the kernel
// (llmlab.render.markdown) of a few tags without anything of the model's in them.

/** An element with a class, attributes and children. */
function make(tag, name, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const STATES = {
  waiting: "reading the prompt…",
  writing: "writing…",
  stopping: "stopping…",
  done: "",
  stopped: "stopped",
  failed: "broke off",
};
const isOver = (state) => state === "done" || state === "stopped" || state === "failed";
// Likely, less, unlikely, surprising: each with a shade and a line of its own.
const LEVELS = [0.9, 0.5, 0.1];
const levelOf = (probability) => LEVELS.filter((least) => probability < least).length;
const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.0995 ? `${Math.round(100 * p)} %` : p >= 0.0001 ? `${(100 * p).toPrecision(2)} %` : "below 0.01 %");
const quoted = (text) => (text === "" ? "(part of a character)" : `‘${text.replaceAll("\n", "⏎")}’`);

/** One reply; `mode` says how complete ones are shown: { markdown, probabilities }. */
class ReplyView {
  constructor(reply, mode) {
    this.mode = mode;
    this.body = make("div", "llmlab-c-body");
    this.note = make("div", "llmlab-c-note");
    this.chips = make("div", "llmlab-c-chips");
    this.stateWord = make("span", "llmlab-c-state");
    this.name = make("span", "llmlab-c-name");
    const head = make("div", "llmlab-c-head", {}, this.name, this.stateWord);
    this.node = make("div", "llmlab-c-reply", { role: "article" }, head, this.body, this.note, this.chips);
    this.update(reply);
  }

  /** All of it anew. */
  update(reply) {
    this.reply = reply;
    this.name.textContent = reply.server;
    this.node.dataset.state = reply.state;
    this.node.setAttribute("aria-label", `answer of ${reply.server}`);
    // While it is busy, a screen reader waits; then it reads the whole.
    this.node.setAttribute("aria-busy", String(!isOver(reply.state)));
    const unseen = reply.state === "stopped" && !reply.seen;
    this.stateWord.textContent = unseen ? "cut off; the server was not seen to stop" : STATES[reply.state];
    this.note.textContent = reply.note;
    this.note.hidden = !reply.note;
    this.chips.replaceChildren(
      ...(reply.chips ?? []).map(([label, value, meaning]) =>
        make("span", "llmlab-c-chip", { title: meaning }, make("span", "llmlab-c-label", {}, label), ` ${value}`),
      ),
    );
    this.draw();
  }

  /** More text. */
  append(text) {
    this.plain ??= this.asText();
    this.reply.text += text;
    this.plain.appendData(text);
  }

  draw() {
    this.plain = undefined;
    const { reply, mode } = this;
    const over = isOver(reply.state);
    if (over && mode.probabilities && reply.tokens?.length) this.body.replaceChildren(...this.asTokens());
    else if (over && mode.markdown && reply.html) {
      const place = make("div", "llmlab-c-markdown");
      place.innerHTML = reply.html;
      this.body.replaceChildren(place);
    } else this.plain = this.asText();
  }

  asText() {
    const text = document.createTextNode(this.reply.text);
    const place = make("div", "llmlab-c-text", {}, text);
    this.body.replaceChildren(place);
    return text;
  }

  /** Tokens by their probability; arrow keys go from one to the next, and a line tells of it. */
  asTokens() {
    const told = make("div", "llmlab-c-told", { "aria-live": "polite" });
    const spans = this.reply.tokens.map(([text, probability]) => {
      const span = make("span", "llmlab-c-token", {}, text);
      span.dataset.level = levelOf(probability);
      span.title = `${quoted(text)} ${percent(probability)}`;
      return span;
    });
    const place = make("div", "llmlab-c-text llmlab-c-tokens", {
      tabindex: "0",
      role: "group",
      "aria-label": "tokens and their probabilities; arrow keys go from one to the next",
    });
    place.append(...spans);
    let present = -1;
    const choose = (index) => {
      spans[present]?.classList.remove("llmlab-c-present");
      present = Math.max(0, Math.min(spans.length - 1, index));
      spans[present].classList.add("llmlab-c-present");
      const [text, probability, likeliest] = this.reply.tokens[present];
      const others = likeliest.filter(([other]) => other !== text).slice(0, 3);
      told.textContent = `${quoted(text)} ${percent(probability)}`;
      if (others.length) told.textContent += `; instead ${others.map(([t, p]) => `${quoted(t)} ${percent(p)}`).join(", ")}`;
    };
    place.addEventListener("pointerover", (event) => {
      const index = spans.indexOf(event.target);
      if (index >= 0) choose(index);
    });
    place.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      choose(Number.isFinite(step) ? present + step : step > 0 ? spans.length - 1 : 0);
    });
    const key = make("div", "llmlab-c-key", { "aria-hidden": "true" }, "probability: ");
    ["90 % and more", "from 50 %", "from 10 %", "less"].forEach((words, level) => {
      const sample = make("span", "llmlab-c-token", {}, words);
      sample.dataset.level = level;
      key.append(sample, " ");
    });
    told.textContent = "Point at a token, or go through them with the arrow keys.";
    return [place, key, told];
  }
}
