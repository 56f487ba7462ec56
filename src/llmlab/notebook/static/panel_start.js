// The section "Start": a model, its settings, the lines that do the same, and the start that goes on.

const CHECK_MS = 150;
const OTHER = "\u0000other";
const PLACES = [
  ["", "automatic", "in a container where there is an engine, otherwise natively"],
  ["container", "container", "isolated: no network, nothing to write, limits of its own"],
  ["native", "native", "a process of yours: quickest to set up, not isolated"],
];
const ENGINES = [["", "automatic"], ["llama-server", "llama-server"], ["llama-cpp-python", "llama-cpp-python"]];
const KV_TYPES = [["", "f16"], ["q8_0", "q8_0"], ["q4_0", "q4_0"]];

class StartSection {
  constructor(view) {
    this.view = view;
    this.model = view.model;
    this.number = 0;
    this.chosen = "tiny";
    this.place = "";
    this.shown = "";
    this.node = element("section", "llmlab-p-section");
    this.node.append(element("h3", "llmlab-p-heading", "Start"), this.form(), this.lines(), this.below());
  }

  // What is built.

  form() {
    const form = element("div", "llmlab-p-form");
    this.list = element("div", "llmlab-p-models");
    this.list.setAttribute("role", "radiogroup");
    this.list.setAttribute("aria-label", "model");
    this.list.append(element("div", "llmlab-p-empty", "Looking which models there are…"));
    form.append(this.list, this.settings());
    return form;
  }

  settings() {
    const changed = () => this.changed();
    const box = element("div", "llmlab-p-settings");
    const places = element("fieldset", "llmlab-p-places");
    places.append(element("legend", "llmlab-p-label", "where it runs"));
    for (const [value, text, help] of PLACES) {
      const choice = element("label", "llmlab-p-choice");
      const radio = element("input");
      radio.type = "radio";
      radio.name = `${this.view.id}-place`;
      radio.value = value;
      radio.checked = value === "";
      radio.addEventListener("change", () => { this.place = value; this.changed(); });
      choice.append(radio, element("span", "", text));
      choice.title = help;
      places.append(choice);
    }
    this.inputs = {
      engine: select(ENGINES, changed),
      context: input("automatic", changed),
      memory: input("as needed", changed),
      cpus: input("as needed", changed),
      gpus: select([["", "none"]], changed),
      name: input("the model's", changed),
      slots: input("4", changed),
      kv_type: select(KV_TYPES, changed),
    };
    const { engine, context, memory, cpus, gpus, name, slots, kv_type } = this.inputs;
    const grid = element("div", "llmlab-p-grid");
    grid.append(
      field("engine", engine, "the program that serves the model"),
      field("context", context, "tokens of context for each request"),
      field("memory limit", memory, "of a container, such as 2g or 512m"),
      field("CPU limit", cpus, "of a container, such as 1.5"),
      field("GPU", gpus, "what it may use of this machine's GPUs"),
    );
    const more = element("details", "llmlab-p-more");
    more.append(element("summary", "", "more settings"));
    const rest = element("div", "llmlab-p-grid");
    rest.append(
      field("name", name, "what the server is called"),
      field("slots", slots, "requests answered at the same time"),
      field("KV cache", kv_type, "the type of its numbers: q8_0 takes about half the memory of f16"),
    );
    more.append(rest);
    this.more = more;
    this.good = element("div", "llmlab-p-good-for");
    box.append(this.good, places, grid, more);
    return box;
  }

  lines() {
    const box = element("div", "llmlab-p-lines");
    box.setAttribute("aria-label", "the lines that do the same");
    this.magic = line("magic", "%llm start tiny");
    this.python = line("Python", 'llmlab.start("tiny")');
    box.append(this.magic, this.python);
    this.box = box;
    return box;
  }

  below() {
    const box = element("div", "llmlab-p-go");
    this.go = button("Start", () => this.start(), { kind: "llmlab-p-primary llmlab-p-start" });
    this.cancel = button("Cancel", () => this.view.send({ t: "cancel", id: this.job.id }), { kind: "llmlab-p-cancel" });
    this.cancel.hidden = true;
    this.verdict = element("div", "llmlab-p-verdict");
    this.verdict.setAttribute("role", "status");
    const row = element("div", "llmlab-p-row");
    row.append(this.go, this.cancel, this.verdict);
    this.progress = element("div", "llmlab-p-progress");
    this.progress.setAttribute("role", "status");
    box.append(row, this.progress);
    return box;
  }

  // What is told.

  /** The models and this machine have been looked at. */
  refreshKnown() {
    const known = this.model.get("known");
    if (!known.models) return;
    const shown = JSON.stringify(known);
    if (shown === this.shown) return;
    this.shown = shown;
    const focused = this.list.contains(document.activeElement);
    const scroll = this.list.scrollTop;
    this.list.replaceChildren();
    for (const [title, wanted] of [["on this machine", true], ["from the hub, fetched at the first start", false]]) {
      const models = known.models.filter((each) => (each.state !== "not here") === wanted);
      if (!models.length) continue;
      this.list.append(element("div", "llmlab-p-group", title));
      this.list.append(...models.map((each) => this.row(each)));
    }
    this.list.append(element("div", "llmlab-p-group", "another"), this.otherRow());
    this.list.scrollTop = scroll;
    if (focused) this.list.querySelector("input:checked")?.focus({ preventScroll: true });
    this.refreshGpus(known.gpus);
    this.refreshGood();
    if (!this.number) this.changed();
  }

  row(model) {
    const row = element("label", "llmlab-p-model");
    row.dataset.model = model.name;
    const radio = this.radio(model.name);
    const text = element("span", "llmlab-p-model-text");
    text.append(element("span", "llmlab-p-model-name", model.name.replace(/^synthetic:/, "")));
    const facts = [model.parameters, model.size, model.rate && `about ${model.rate} here`].filter(Boolean).join(" · ");
    const below = element("span", "llmlab-p-model-facts", facts);
    if (model.synthetic) below.prepend(element("span", "llmlab-p-tag", "random weights"));
    text.append(below);
    const fit = element("span", "llmlab-p-fit");
    fit.append(marked(model.fits));
    if (model.needs) fit.append(element("span", "llmlab-p-model-facts", `needs ${model.needs}`));
    row.title = [model.reference, model.good_for, model.advice].filter(Boolean).join("\n");
    row.append(radio, text, fit);
    return row;
  }

  otherRow() {
    const row = element("label", "llmlab-p-model");
    this.other ??= input("./file.gguf, hf:owner/repo:Q4_K_M, ollama:name", () => {
      this.chosen = OTHER;
      row.querySelector("input").checked = true;
      this.changed();
    });
    this.other.classList.add("llmlab-p-other");
    this.other.setAttribute("aria-label", "another model: a file, or a reference");
    row.append(this.radio(OTHER), this.other);
    return row;
  }

  radio(value) {
    const radio = element("input");
    radio.type = "radio";
    radio.name = `${this.view.id}-model`;
    radio.checked = value === this.chosen;
    radio.addEventListener("change", () => { this.chosen = value; this.changed(); });
    return radio;
  }

  refreshGpus(names) {
    const { gpus } = this.inputs;
    const kept = gpus.value;
    const choices = names.length
      ? [["", "none"], ["all", "all"], ...names.map((name, i) => [String(i), `${i}: ${name}`])]
      : [["", "no GPU here"]];
    gpus.replaceChildren(...select(choices, () => {}).children);
    gpus.value = choices.some(([value]) => value === kept) ? kept : "";
    this.noGpu = !names.length;
    gpus.disabled = this.noGpu;
  }

  refreshGood() {
    const found = this.model.get("known").models?.find((each) => each.name === this.chosen);
    const words = found?.good_for || (found?.synthetic ? "For measuring: random weights in the shape of a model." : "");
    say(this.good, words || "A model of your own: a file, or a reference.");
  }

  /** What has been filled in. */
  values() {
    const values = { model: this.chosen === OTHER ? this.other.value : this.chosen, backend: this.place };
    for (const [name, control] of Object.entries(this.inputs)) if (!control.disabled) values[name] = control.value;
    return values;
  }

  changed() {
    for (const name of ["memory", "cpus"]) this.inputs[name].disabled = this.place === "native";
    this.refreshGood();
    this.box.classList.add("llmlab-p-old");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), CHECK_MS);
  }

  ask() {
    this.number += 1;
    this.view.send({ t: "form", n: this.number, values: this.values() });
  }

  /** The kernel has looked at the form. */
  checked(message) {
    if (message.n !== this.number) return;
    this.box.classList.remove("llmlab-p-old");
    if (message.magic) {
      say(this.magic.code, message.magic);
      say(this.python.code, message.python);
    }
    if (message.verdict === "…") return;
    this.showVerdict(message);
  }

  showVerdict({ verdict, message, hint, notes, remedy }) {
    this.node.dataset.verdict = verdict;
    this.verdict.replaceChildren();
    if (verdict === "fits" || verdict === "unknown") {
      this.verdict.append(marked(verdict, message));
      for (const note of notes) this.verdict.append(element("div", "llmlab-p-hint", note));
    } else {
      const box = verdict === "too big" ? outOfMemory(message, hint) : problem("bad", message, hint);
      if (remedy) box.append(this.remedy(remedy));
      this.verdict.append(box);
    }
    this.refreshButtons();
  }

  /** A button that fills in what would fit. */
  remedy(values) {
    const words = Object.entries(values).map(([name, value]) => `${name.replace("_", " ")} ${value}`);
    return button(`Use ${words.join(", ")}`, () => {
      for (const [name, value] of Object.entries(values)) {
        const control = this.inputs[name];
        if (!control) continue;
        control.value = value === "f16" ? "" : value;
        if (this.more.contains(control)) this.more.open = true;
      }
      this.changed();
    }, { kind: "llmlab-p-remedy" });
  }

  start() {
    this.go.disabled = true;
    this.view.send({ t: "start", values: this.values() });
  }

  /** The start that goes on, or the last one. */
  refreshStarting() {
    const job = (this.job = this.model.get("starting"));
    const goes = job.state === "running";
    this.node.dataset.starting = job.state ?? "";
    this.cancel.hidden = !goes;
    this.cancel.disabled = Boolean(job.cancelling);
    say(this.cancel, job.cancelling ? "Cancelling…" : "Cancel");
    const shown = JSON.stringify(job);
    if (shown !== this.progressShown) {
      this.progressShown = shown;
      this.progress.replaceChildren(...this.outcome(job));
    }
    this.refreshButtons();
  }

  outcome(job) {
    if (!job.state) return [];
    const made = [];
    if (job.progress) {
      const stages = element("div", "llmlab-p-stages");
      stages.innerHTML = job.progress; // the kernel's own, in which everything is escaped
      made.push(stages);
    }
    if (job.state === "cancelled") made.push(problem("quiet", "Cancelled: nothing is left of it."));
    if (job.error) made.push(errorBox(job.error, job.error.remedy && this.remedy(job.error.remedy)));
    if (job.state !== "running") {
      const close = () => this.view.send({ t: "close", id: job.id });
      const label = "dismiss what became of the start";
      made.splice(1, 0, button("Dismiss", close, { kind: "llmlab-p-small llmlab-p-dismiss", label }));
    }
    return made;
  }

  refreshButtons() {
    const goes = this.job?.state === "running";
    say(this.go, goes ? "Starting…" : "Start");
    this.go.disabled = goes || ["too big", "refused"].includes(this.node.dataset.verdict);
  }
}

/** It would not fit: what it takes, and what would. */
function outOfMemory(message, hint) {
  const box = problem("bad", "Out of memory", message);
  if (hint) box.append(element("div", "llmlab-p-hint", `→ ${hint}`));
  return box;
}

/** An error with its hint and, folded, the engine's last lines. */
function errorBox(error, ...further) {
  const box = problem("bad", error.message, error.hint);
  if (error.log.length) {
    const log = element("details", "llmlab-p-log");
    log.append(element("summary", "", "the engine's last lines"), element("pre", "", error.log.join("\n")));
    box.append(log);
  }
  box.append(...further.filter(Boolean));
  return box;
}
