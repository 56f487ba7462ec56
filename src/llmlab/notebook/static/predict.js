// The form that takes a guess: an anywidget's module, without a build step.
//
// All state is the model's: facts, stage ("asking", "measuring", "measured", "over"), guess, progress, error,
// hint, outcome. The page sends {t}: hello, measure (with guess), cancel, hint, again, done. What tests may rely on:
//   .llmlab-predict          the root, with data-stage
//   .llmlab-predict-measure, -cancel, -again, -done, -hint-button    buttons
//   .llmlab-predict-status, -error, -hint, -outcome

const LOW = -1; // 0.1 tokens per second
const HIGH = 4; // 10 000
const PATIENCE_MS = 3000;

function element(name, classes, text, more = {}) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(more)) made.setAttribute(key, value);
  return made;
}

function button(kind, text, act) {
  const made = element("button", `llmlab-predict-${kind}`, text, { type: "button" });
  made.addEventListener("click", act);
  return made;
}

/** Three digits are enough of a guess that is pointed at. */
const rounded = (value) => Number(value.toPrecision(value < 10 ? 2 : 3));

function facts(title, pairs) {
  const list = element("dl");
  list.append(element("h4", "", title));
  for (const [name, value] of pairs) list.append(element("dt", "", name), element("dd", "", value));
  return list;
}

class Form {
  /**
   * @param {object} model
   * @param {HTMLElement} el Where it is shown.
   * @param {{form: ?Form}} keyboard Which of this model's forms has it: a front-end may build one anew meanwhile.
   */
  constructor(model, el, keyboard) {
    this.model = model;
    this.keyboard = keyboard;
    this.controller = new AbortController();
    this.stage = null;
    const told = model.get("facts");
    this.root = element("section", "llmlab-predict", undefined, { "aria-label": "Predict, then measure" });
    // Keys that are typed here are no shortcuts of JupyterLab's: there arrows choose cells, "0 0" restarts the kernel.
    this.root.addEventListener("keydown", (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.altKey && event.key !== "Tab") event.stopPropagation();
    });
    const question = element("h3", "llmlab-predict-question", told.question);
    if (told.synthetic) {
      const meaning = "random numbers in the shape of a real model; they are as fast";
      question.append(element("small", "", "synthetic weights", { title: meaning }));
    }
    const known = element("div", "llmlab-predict-facts");
    known.append(facts("The model", told.model), facts("This machine", told.machine));
    this.hint = element("div", "llmlab-predict-hint", undefined, { role: "status" });
    this.error = element("div", "llmlab-predict-error", undefined, { role: "alert" });
    this.outcome = element("div", "llmlab-predict-outcome");
    this.root.append(question, known, this.hint, this.form(), this.error, this.outcome, this.buttons());
    for (const name of ["stage", "guess", "progress", "error", "hint", "outcome"]) {
      this.on(name);
    }
    this.keepFocus();
    this.update();
    el.append(this.root);
    if (keyboard.form) this.inherit(keyboard.form);
  }

  on(name) {
    const update = () => this.update();
    this.model.on(`change:${name}`, update);
    this.controller.signal.addEventListener("abort", () => this.model.off(`change:${name}`, update));
  }

  keepFocus() {
    const { signal } = this.controller;
    const look = (event) => {
      if (this.root.contains(event.target)) this.keyboard.form = this;
      else if (this.keyboard.form === this && this.root.isConnected) this.keyboard.form = null;
    };
    document.addEventListener("focusin", look, { signal });
    document.addEventListener("pointerdown", look, { signal });
  }

  /** Take the keyboard over from a form, if this one soon stands in its place. */
  inherit(from) {
    const until = performance.now() + PATIENCE_MS;
    const look = () => {
      if (this.keyboard.form !== from) return;
      if (this.root.isConnected && !from.root.isConnected) {
        this.keyboard.form = this;
        this.focus();
      } else if (performance.now() < until) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }

  // What is built.

  form() {
    this.fields = element("form", "llmlab-predict-form", undefined, { novalidate: "" });
    const line = element("div", "llmlab-predict-line");
    const label = element("label", "", "Your guess");
    this.number = element("input", "", undefined, {
      type: "number",
      min: "0",
      step: "any",
      inputmode: "decimal",
      "aria-label": "Your guess, in tokens per second",
    });
    label.append(" ", this.number);
    const slider = element("div", "llmlab-predict-slider");
    this.slider = element("input", "", undefined, {
      type: "range",
      min: LOW,
      max: HIGH,
      step: 0.01,
      "aria-label": "Your guess, on a logarithmic slider",
    });
    slider.append(this.slider, this.scale());
    line.append(label, element("span", "", "tokens/s"), slider);
    this.fields.append(line);
    this.number.addEventListener("input", () => this.typed());
    this.slider.addEventListener("input", () => this.slid());
    this.fields.addEventListener("submit", (event) => {
      event.preventDefault();
      this.measure();
    });
    return this.fields;
  }

  scale() {
    const scale = element("div", "llmlab-predict-scale", undefined, { "aria-hidden": "true" });
    for (let power = LOW; power <= HIGH; power += 1) {
      const mark = element("span", "", (10 ** power).toLocaleString("en"));
      mark.style.left = `${(100 * (power - LOW)) / (HIGH - LOW)}%`;
      scale.append(mark);
    }
    return scale;
  }

  buttons() {
    const line = element("div", "llmlab-predict-buttons");
    this.measureButton = button("measure llmlab-predict-main", "Measure", () => this.measure());
    this.hintButton = button("hint-button", "Hint", () => this.model.send({ t: "hint" }));
    this.cancelButton = button("cancel", "Cancel", () => this.cancel());
    this.againButton = button("again llmlab-predict-main", "Again", () => this.model.send({ t: "again" }));
    this.doneButton = button("done", "Done", () => this.model.send({ t: "done" }));
    this.doneButton.title = "Leave the picture in the place of this form";
    this.status = element("span", "llmlab-predict-status", undefined, { role: "status" });
    line.append(this.measureButton, this.hintButton, this.cancelButton, this.againButton, this.doneButton, this.status);
    return line;
  }

  // What a person does.

  get value() {
    const value = this.number.valueAsNumber;
    return Number.isFinite(value) && value > 0 ? value : null;
  }

  typed() {
    if (this.value !== null) this.slider.value = Math.log10(this.value);
    this.guessed();
  }

  slid() {
    this.number.value = rounded(10 ** this.slider.valueAsNumber);
    this.guessed();
  }

  /** Show that there is a guess, or none. */
  guessed() {
    const { value } = this;
    this.measureButton.disabled = value === null;
    this.fields.classList.toggle("llmlab-predict-unset", value === null);
    this.slider.setAttribute("aria-valuetext", value === null ? "no guess yet" : `${value} tokens per second`);
    const wrong = this.number.value !== "" || this.number.validity.badInput;
    this.number.setAttribute("aria-invalid", String(value === null && wrong));
    if (this.stage === "asking") {
      this.status.textContent = value === null && wrong ? "A guess is a number above 0." : "";
    }
  }

  measure() {
    if (this.value === null || this.stage !== "asking") return;
    this.cancelling = false;
    this.model.send({ t: "measure", guess: this.value });
  }

  cancel() {
    this.cancelling = true;
    this.model.send({ t: "cancel" });
    this.update();
  }

  // What is shown.

  update() {
    const stage = this.model.get("stage");
    const changed = stage !== this.stage;
    const before = this.stage;
    this.stage = this.root.dataset.stage = stage;
    const asking = stage === "asking";
    this.number.disabled = this.slider.disabled = !asking;
    if (changed && stage !== "measuring" && before !== "measuring") this.fill(before === "measured");
    this.fields.hidden = stage === "over";
    this.measureButton.hidden = !asking;
    this.cancelButton.hidden = stage !== "measuring";
    this.cancelButton.disabled = stage === "measuring" && this.cancelling === true;
    this.againButton.hidden = this.doneButton.hidden = stage !== "measured";
    this.showHint(asking);
    this.showError();
    this.showOutcome();
    if (changed) this.guessed();
    this.showStatus();
    if (changed && before !== null && this.keyboard.form === this) this.focus();
  }

  /** Put the model's guess into the fields; for another try, nothing. */
  fill(again) {
    const guess = again ? null : this.model.get("guess");
    this.number.value = guess ?? "";
    this.slider.value = guess === null ? (LOW + HIGH) / 2 : Math.log10(guess);
  }

  showHint(asking) {
    const { state, bandwidth, formula, reason } = this.model.get("hint") ?? {};
    this.hintButton.hidden = !asking || state === "known";
    this.hintButton.disabled = state === "measuring";
    this.hintButton.textContent = state === "measuring" ? "Measuring memory bandwidth…" : "Hint";
    this.hint.hidden = state !== "known";
    if (state !== "known" || this.hint.childElementCount) return;
    const lines = [`Memory bandwidth, measured just now: ${bandwidth}`, formula, reason];
    this.hint.append(...lines.map((line, number) => element(number < 2 ? "p" : "div", "", line)));
    this.hint.lastChild.className = "llmlab-predict-status";
  }

  showError() {
    const why = this.model.get("error");
    this.error.hidden = why === "";
    const shown = why && `It could not be measured: ${why}`;
    if (this.error.textContent !== shown) this.error.textContent = shown;
  }

  showOutcome() {
    const html = this.model.get("outcome");
    // The kernel has escaped whatever is not its own.
    if (this.shown !== html) this.outcome.innerHTML = this.shown = html;
    this.outcome.hidden = html === "";
  }

  showStatus() {
    const busy = this.stage === "measuring";
    this.status.classList.toggle("llmlab-predict-busy", busy);
    this.status.classList.toggle("llmlab-predict-heard", this.stage === "measured");
    if (busy) {
      const doing = this.model.get("progress");
      this.status.textContent = this.cancelling ? "Cancelling…" : `Measuring… ${doing}`;
    } else if (this.stage === "measured") {
      // Read out, not seen: it stands above the marks already.
      this.status.textContent = this.outcome.firstElementChild?.textContent ?? "";
    }
  }

  /** Lead the keyboard to what comes next. */
  focus() {
    const next = { asking: this.number, measuring: this.cancelButton, measured: this.againButton }[this.stage];
    next?.focus({ preventScroll: true });
  }

  destroy() {
    this.controller.abort();
    this.root.remove();
  }
}

export default () => {
  const keyboard = { form: null };
  return {
    initialize: ({ model }) => model.send({ t: "hello" }),
    render({ model, el }) {
      const form = new Form(model, el, keyboard);
      return () => form.destroy();
    },
  };
};
