// What all parts of the panel are made of.

/** An element with a class and a text. */
function element(tag, name = "", text = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text) made.textContent = text;
  return made;
}

/** A button of the panel. */
function button(text, clicked, { kind = "", label = "" } = {}) {
  const made = element("button", `llmlab-p-button ${kind}`.trim(), text);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", clicked);
  return made;
}

/** Set a text only if it differs: what is read out loud is not read again. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A mark and a word: the state never shows by colour alone. */
const MARKS = {
  ready: ["●", "good"],
  starting: ["◐", "warn"],
  stopping: ["◌", "quiet"],
  paused: ["▮▮", "warn"],
  restarting: ["◐", "warn"],
  exited: ["✗", "bad"],
  lost: ["✗", "bad"],
  stopped: ["○", "quiet"],
  closed: ["○", "quiet"],
  refused: ["✗", "bad"],
  "over quota": ["▲", "warn"],
  unreachable: ["?", "bad"],
  fits: ["✓", "good"],
  tight: ["▲", "warn"],
  "too big": ["✗", "bad"],
  unknown: ["?", "quiet"],
  ok: ["●", "good"],
  warning: ["▲", "warn"],
  fail: ["✗", "bad"],
  "not applicable": ["○", "quiet"],
  running: ["◐", "warn"],
  done: ["✓", "good"],
  failed: ["✗", "bad"],
  cancelled: ["○", "quiet"],
};

function marked(state, word = state) {
  const [mark, look] = MARKS[state] ?? ["○", "quiet"];
  const made = element("span", "llmlab-p-mark");
  const sign = element("span", `llmlab-p-${look}`, mark);
  sign.setAttribute("aria-hidden", "true");
  made.append(sign, ` ${word}`);
  return made;
}

/** What is wrong, in plain words, with what to do about it. */
function problem(look, title, hint = "", commands = []) {
  const made = element("div", `llmlab-p-problem llmlab-p-problem-${look}`);
  made.append(element("div", "llmlab-p-message", title));
  if (hint) made.append(element("div", "llmlab-p-hint", hint));
  for (const command of commands) made.append(line("", command));
  return made;
}

/** A line of code with a button that copies it. */
function line(name, text) {
  const made = element("div", "llmlab-p-line");
  if (name) made.append(element("span", "llmlab-p-line-name", name));
  const code = element("code", "llmlab-p-code", text);
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // Without https there is no clipboard: the line is selected, so that Ctrl-C copies it.
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  }, { kind: "llmlab-p-small", label: `copy the line ${name}` });
  made.append(code, copy);
  made.code = code;
  return made;
}

/** A labelled control. */
function field(text, control, help = "") {
  const made = element("label", "llmlab-p-field");
  made.append(element("span", "llmlab-p-label", text), control);
  if (help) made.title = help;
  return made;
}

function select(choices, changed) {
  const made = element("select", "llmlab-p-input");
  for (const [value, text] of choices) {
    const option = element("option", "", text);
    option.value = value;
    made.append(option);
  }
  made.addEventListener("change", changed);
  return made;
}

function input(placeholder, changed) {
  const made = element("input", "llmlab-p-input");
  made.type = "text";
  made.placeholder = placeholder;
  made.spellcheck = false;
  made.autocomplete = "off";
  made.addEventListener("input", changed);
  return made;
}

/** A time in the two largest units that matter. */
function durationText(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

function mibText(mib) {
  return mib >= 1024 ? `${(mib / 1024).toFixed(1)} GiB` : `${Math.round(mib)} MiB`;
}
