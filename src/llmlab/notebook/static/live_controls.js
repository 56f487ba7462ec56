// The words and buttons around the charts: the header with its toolbar, and the requests below.

/** Without a message for that long (and three looks) while live, it is said. */
const QUIET_MS = 5000;
const WINDOWS = [
  { name: "1 min", seconds: 60 },
  { name: "5 min", seconds: 300 },
  { name: "all", seconds: Infinity },
];
/** Requests that have a button. */
const BUTTONS = 12;
const STATES = { live: "live", stopped: "stopped", recording: "a recording" };

function press(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

/** Title, state, time and buttons. */
class Header {
  /**
   * @param {View} view
   * @param {boolean} compact Then there is no button but the one to stop.
   */
  constructor(view, compact) {
    this.view = view;
    this.compact = compact;
    const header = element("div", "llmlab-header");
    this.title = element("strong", "llmlab-title");
    const state = element("span", "llmlab-state");
    const dot = element("span", "llmlab-state-dot");
    dot.setAttribute("aria-hidden", "true");
    this.state = element("span", "llmlab-state-word");
    state.append(dot, this.state);
    this.why = element("span", "llmlab-why");
    this.time = element("span", "llmlab-time");
    this.stop = button("llmlab-stop", "stop", () => view.store.stop());
    this.recording = element("div", "llmlab-recording");
    this.silence = element("div", "llmlab-silence");
    this.silence.setAttribute("role", "status");
    header.append(this.title, state, this.why, this.time, compact ? this.stop : this.toolbar());
    this.nodes = [header, this.recording, this.silence];
  }

  toolbar() {
    const { view } = this;
    const bar = element("div", "llmlab-toolbar");
    const choice = element("span", "llmlab-choice");
    choice.setAttribute("role", "group");
    choice.setAttribute("aria-label", "how much is shown");
    this.windows = WINDOWS.map(({ name, seconds }) => {
      const made = button("llmlab-window-button", name, () => view.showWindow(seconds));
      choice.append(made);
      return { button: made, seconds };
    });
    this.leave = button("llmlab-leave", "leave zoom", () => view.leaveZoom());
    this.pause = button("llmlab-pause", "pause", () => view.togglePause());
    this.sensors = button("llmlab-sensors", "sensor windows", () => view.toggle("sensors"));
    this.more = button("llmlab-more", "more charts", () => view.toggle("more"));
    bar.append(this.leave, this.pause, choice, this.sensors, this.more, this.stop);
    return bar;
  }

  refresh() {
    const { spec, stopping } = this.view.store;
    setText(this.title, spec.title);
    const paused = this.view.pausedAt !== null ? ", drawing paused" : "";
    setText(this.state, STATES[spec.state] + paused);
    setText(this.why, spec.why);
    setText(this.recording, spec.recording);
    this.recording.hidden = !spec.recording;
    this.stop.hidden = spec.state !== "live";
    this.stop.disabled = stopping;
    setText(this.stop, stopping ? "stopping…" : "stop");
    if (!this.compact) this.refreshToolbar(spec);
    this.showSilence(this.view.store);
  }

  refreshToolbar(spec) {
    const { zoom, play, sensors, more, pausedAt } = this.view;
    this.leave.hidden = !zoom;
    this.pause.hidden = spec.state === "stopped";
    if (spec.state === "recording") setText(this.pause, play && play.since !== null ? "pause" : "play");
    else setText(this.pause, pausedAt === null ? "pause" : "resume");
    const chosen = zoom || play ? null : this.view.seconds();
    for (const { button, seconds } of this.windows) press(button, seconds === chosen);
    press(this.sensors, sensors);
    this.sensors.hidden = !spec.rows.some((row) => sensorText(row, spec.period));
    const further = spec.panels.filter((panel) => !panel.first && panel.rows.length).length;
    press(this.more, more);
    setText(this.more, `more charts (${further})`);
    this.more.hidden = further === 0;
  }

  /** Say it where nothing has come for a while. */
  showSilence({ spec, lastNews }) {
    const silent = performance.now() - lastNews;
    const quiet = spec.state === "live" && !document.hidden && silent > QUIET_MS + 3000 * spec.period;
    this.silence.hidden = !quiet;
    const seconds = Math.floor(silent / 1000);
    const words = `no news for ${seconds} s: the kernel is busy or gone; this is the last that was seen`;
    setText(this.silence, quiet ? words : "");
  }
}

/** The newest requests as buttons, and a key to what is drawn of them. */
class RequestList {
  constructor(view) {
    this.view = view;
    this.node = element("div", "llmlab-asked");
  }

  refresh() {
    const { spec, requests } = this.view.store;
    const focused = this.node.querySelector(":focus")?.dataset.key;
    const items = requests.items.slice(-BUTTONS).reverse().map((request) => this.button(spec, request));
    this.node.hidden = spec.compact;
    this.node.replaceChildren(keyOf(items.length > 0), ...items);
    items.find((item) => item.dataset.key === focused)?.focus({ preventScroll: true });
  }

  button(spec, request) {
    const made = button("llmlab-request", "", () => this.view.showRequest(request));
    const subject = spec.subjects.find((each) => each.name === request.subject && each.group === "servers");
    if (subject) made.append(swatch(subject.colour));
    made.append(element("span", "", requestText(request)));
    made.title = requestDetails(request, spec.epoch);
    made.dataset.key = request.key;
    press(made, this.view.selected === request.key);
    return made;
  }
}

/** What the shades mean: of a request's parts, and of what is unknown. */
function keyOf(requests) {
  const key = element("span", "llmlab-key");
  const add = (kind) => {
    const item = element("span", "llmlab-key-item");
    item.append(element("span", `llmlab-shade llmlab-shade-${kind}`), element("span", "", kind));
    key.append(item);
  };
  if (requests) {
    key.append(element("span", "llmlab-key-title", "requests"));
    Object.keys(SHADES).forEach(add);
  }
  add("unknown");
  return key;
}

/** A request in few words. */
function requestText(request) {
  const parts = [request.subject, lengthText(request.total)];
  if (request.rate !== null) parts.push(`${numberText(request.rate)} tokens/s`);
  if (request.joules !== null) parts.push(`${numberText(request.joules)} J/token`);
  if (!["", "stop", "length"].includes(request.outcome)) parts.push(request.outcome.slice(0, 24));
  return parts.join(" · ");
}

/** All that is known of a request, a line each. */
function requestDetails(request, epoch) {
  const seconds = (words, value) => (value === null ? [] : [`${words} ${lengthText(value)}`]);
  const began = epoch === null ? `${request.began.toFixed(2)} s` : clockText(epoch, request.began, 2);
  return [
    `${request.subject}: asked at ${began}`,
    [
      ...seconds("in all", request.total),
      ...seconds("time to first token", request.ttft),
      ...seconds("queue", request.queue),
      ...seconds("prefill", request.prefill),
    ].join(", "),
    request.tokens === null ? "" : `${numberText(request.tokens)} tokens`,
    request.rate === null ? "" : `${numberText(request.rate)} tokens/s`,
    request.joules === null ? request.note : `${numberText(request.joules)} J/token. ${request.note}`.trim(),
    request.outcome && `ended: ${request.outcome}`,
  ]
    .filter(Boolean)
    .join("\n");
}
