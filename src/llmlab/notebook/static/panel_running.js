// The section "Running": a card for each server, with what it takes.

const MINUTE_S = 60;
const CHART = { width: 150, height: 34 };
const SVG = "http://www.w3.org/2000/svg";
const ACTIONS = [
  ["chat", "Chat", "talk with it, below"],
  ["logs", "Logs", "the last lines of its log"],
  ["audit", "Audit", "try to break out of its container, and show what happened"],
  ["compare", "Compare", "what the container costs: its model natively and in a container, in turns, for 3 minutes at most"],
];

class RunningSection {
  constructor(view) {
    this.view = view;
    this.model = view.model;
    this.cards = new Map(); // name and time of its start → card
    this.figures = new Map(); // name → [at, cpus, mib, tokens/s], the last minute
    this.node = element("section", "llmlab-p-section");
    this.heading = element("h3", "llmlab-p-heading", "Running");
    this.empty = element("div", "llmlab-p-empty", "Nothing runs yet. Choose a model above and press Start.");
    this.list = element("div", "llmlab-p-cards");
    this.remarks = element("div", "llmlab-p-remarks");
    this.remarks.setAttribute("role", "status");
    this.node.append(this.heading, this.remarks, this.empty, this.list);
  }

  refresh() {
    const servers = this.model.get("servers");
    const trouble = this.model.get("trouble");
    say(this.heading, servers.length ? `Running (${servers.length})` : "Running");
    this.empty.hidden = servers.length > 0 || Boolean(trouble);
    const keys = servers.map((each) => `${each.name} ${each.created}`);
    for (const [key, card] of this.cards) {
      if (keys.includes(key)) continue;
      card.node.remove();
      this.cards.delete(key);
    }
    servers.forEach((server, i) => {
      let card = this.cards.get(keys[i]);
      if (!card) this.cards.set(keys[i], (card = new Card(this.view, server)));
      // Only what has to move is moved: a button that has the focus keeps it.
      if (this.list.children[i] !== card.node) this.list.insertBefore(card.node, this.list.children[i] ?? null);
      card.refresh(server);
    });
    const texts = this.model.get("remarks");
    this.remarks.replaceChildren(...(trouble ? [problem("bad", trouble)] : []), ...texts.map((text) => this.remark(text)));
    this.tick();
  }

  remark(text) {
    const box = problem("quiet", text);
    const close = () => this.view.send({ t: "dismiss", text });
    box.append(button("Dismiss", close, { kind: "llmlab-p-small", label: `dismiss: ${text}` }));
    return box;
  }

  history(rows) {
    this.figures = new Map(Object.entries(rows));
    this.draw();
  }

  append(at, rows) {
    for (const [name, row] of Object.entries(rows)) {
      const kept = this.figures.get(name) ?? [];
      kept.push([at, ...row]);
      while (kept[0][0] < at - MINUTE_S) kept.shift();
      this.figures.set(name, kept);
    }
    for (const name of this.figures.keys()) if (!(name in rows)) this.figures.delete(name);
    this.draw();
  }

  draw() {
    for (const card of this.cards.values()) card.draw(this.figures.get(card.server.name) ?? []);
  }

  /** A second has passed. */
  tick() {
    for (const card of this.cards.values()) card.tick();
  }
}

class Card {
  constructor(view, server) {
    this.view = view;
    this.server = server;
    this.node = element("article", "llmlab-p-card");
    this.node.dataset.server = server.name;
    this.node.setAttribute("aria-label", `server ${server.name}`);
    const head = element("div", "llmlab-p-card-head");
    this.state = element("span", "llmlab-p-state");
    this.up = element("span", "llmlab-p-up");
    this.rate = element("span", "llmlab-p-hint");
    head.append(element("strong", "llmlab-p-name", server.name), this.state, this.rate, this.up);
    this.chips = element("div", "llmlab-p-chips");
    this.detail = element("div", "llmlab-p-hint");
    const charts = element("div", "llmlab-p-charts");
    this.charts = [
      new Chart("CPU", server.cpus, 1, (value, most) => `${value.toFixed(2)}${most ? ` of ${most}` : ""} CPUs`),
      new Chart("memory", server.memory_mib, 0, (value, most) => mibText(value) + (most ? ` of ${mibText(most)}` : "")),
    ];
    charts.append(...this.charts.map((chart) => chart.node));
    const buttons = element("div", "llmlab-p-row");
    this.buttons = ACTIONS.map(([verb, text, help]) => {
      const made = button(text, () => this.act(verb), { kind: `llmlab-p-${verb}`, label: `${text} ${server.name}` });
      made.title = help;
      return made;
    });
    // A classroom that was joined: what it takes and writes is on another machine.
    this.room = server.backend === "room";
    this.end = this.room ? "Leave" : "Stop";
    this.stop = button(this.end, () => this.act("stop"), { kind: "llmlab-p-stop", label: `${this.end} ${server.name}` });
    this.stop.title = this.room ? "forget it and its key; nothing is stopped there" : "stop it and remove everything that belongs to it";
    charts.hidden = this.room;
    for (const other of this.buttons.slice(1)) other.hidden = this.room;
    buttons.append(...this.buttons, this.stop);
    this.node.append(head, this.chips, this.detail, charts, buttons);
  }

  act(verb) {
    this.view.send({ t: verb, server: this.server.name });
  }

  refresh(server) {
    this.server = server;
    const state = server.stopping ? "stopping" : server.state === "loading" ? "starting" : server.state;
    if (this.node.dataset.state !== state) {
      this.node.dataset.state = state;
      this.state.replaceChildren(marked(state));
    }
    const remarks = [server.detail, server.remedy].filter(Boolean).join("; ");
    say(this.detail, remarks);
    this.detail.hidden = !remarks;
    const isolated = server.backend === "container" && server.isolation !== "none";
    const chips = [
      [this.room ? `in a classroom: ${server.endpoint}` : server.backend === "container" ? "in a container" : "native", ""],
      this.room
        ? [`isolation: ${server.isolation}`, ""]
        : [isolated ? `isolation: ${server.isolation}` : "not isolated", isolated ? "good" : "warn"],
      [`model ${server.model}`, ""],
      [`context ${server.context} × ${server.slots} slots`, ""],
    ];
    const shown = JSON.stringify(chips);
    if (shown !== this.shown) {
      this.shown = shown;
      this.chips.replaceChildren(
        ...chips.map(([text, look]) => element("span", `llmlab-p-chip ${look && `llmlab-p-chip-${look}`}`.trim(), text)),
      );
    }
    const up = state === "ready";
    const [chat, , audit, compare] = this.buttons;
    chat.disabled = !up;
    audit.disabled = !up || server.backend !== "container";
    audit.title = server.backend === "container" ? ACTIONS[2][2] : "it runs natively: there is no isolation to audit";
    compare.disabled = !up;
    this.stop.disabled = server.stopping;
    say(this.stop, server.stopping ? "Stopping…" : !this.room && (state === "exited" || state === "lost") ? "Remove" : this.end);
  }

  draw(rows) {
    this.charts.forEach((chart, i) => chart.draw(rows.map((row) => [row[0], row[i + 1]])));
    const rate = rows.at(-1)?.[3];
    say(this.rate, rate ? `writes ${Math.round(rate)} tokens/s` : "");
  }

  tick() {
    // When it ended stands in the line below.
    const up = this.server.state === "exited" ? "" : `up ${durationText(Date.now() / 1000 - this.server.created)}`;
    say(this.up, up);
  }
}

/** The last minute of one figure; what is unknown is a gap. */
class Chart {
  /**
   * @param {string} name
   * @param {?number} most Its limit, if there is one: the top of the chart.
   * @param {number} least The top of the chart is this at least, so that noise stays small.
   * @param {function(number, ?number): string} text The value, and the limit.
   */
  constructor(name, most, least, text) {
    this.name = name;
    this.most = most;
    this.least = least;
    this.text = text;
    this.node = element("figure", "llmlab-p-chart");
    this.caption = element("figcaption", "llmlab-p-caption");
    this.value = element("span", "llmlab-p-value", "unknown");
    this.caption.append(element("span", "llmlab-p-label", name), this.value);
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${CHART.width} ${CHART.height}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.area = document.createElementNS(SVG, "path");
    this.area.setAttribute("class", "llmlab-p-area");
    this.path = document.createElementNS(SVG, "path");
    this.path.setAttribute("class", "llmlab-p-curve");
    this.svg.append(this.area, this.path);
    this.node.append(this.caption, this.svg);
  }

  draw(points) {
    const known = points.filter(([, value]) => value !== null);
    const last = points.at(-1)?.[1] ?? null;
    say(this.value, last === null ? "unknown" : this.text(last, this.most));
    this.svg.setAttribute("aria-label", `${this.name} in the last minute: now ${this.value.textContent}`);
    const highest = Math.max(this.least, ...known.map(([, value]) => value));
    const top = this.most ? Math.max(this.most, highest) : highest * 1.25 || 1;
    const end = points.at(-1)?.[0] ?? 0;
    const x = (at) => CHART.width * (1 - (end - at) / MINUTE_S);
    const y = (value) => CHART.height - 1 - (CHART.height - 2) * (value / top);
    let curve = "";
    let area = "";
    let before = null;
    for (const [at, value] of points) {
      if (value === null || x(at) < 0) {
        if (before) area += `V${CHART.height}Z`;
        before = null;
        continue;
      }
      const place = `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      curve += `${before ? "L" : "M"}${place}`;
      area += before ? `L${place}` : `M${x(at).toFixed(1)} ${CHART.height}L${place}`;
      before = [at, value];
    }
    if (before) area += `V${CHART.height}Z`;
    this.path.setAttribute("d", curve);
    this.area.setAttribute("d", area);
  }
}
