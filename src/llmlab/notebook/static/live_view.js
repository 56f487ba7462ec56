// A view of one model: what is shown of the looks, when it is drawn, and what a person does.

/** At most so often are new looks drawn. */
const DRAW_MS = 250;
/** And so often at the least, however long the stretch of time that is shown. */
const SLOWEST_MS = 2000;
const USUAL_WIDTH = 300;
const ZOOM_MIN_S = 0.05;
const GROUPS = { servers: "servers", gpus: "GPUs", machine: "the machine" };

class View {
  /**
   * @param {Store} store
   * @param {HTMLElement} el Where it is shown.
   */
  constructor(store, el) {
    this.store = store;
    this.window = null; // seconds; null for what fits the state
    this.zoom = null; // [from, to]
    this.selected = null; // the request that is zoomed to
    this.pausedAt = null; // the newest look when drawing was paused
    this.play = null; // {position, since}: a recording that is played, since null while paused
    this.pointer = null; // {share} of the width, or {time}
    this.hovered = null;
    this.sensors = false;
    this.more = false;
    this.visible = false;
    this.paints = 0;
    this.lastPaint = this.lastTick = -Infinity;
    this.atOnce = true;
    this.root = element("div", "llmlab-live");
    this.root.tabIndex = 0;
    this.root.setAttribute("role", "group");
    this.root.addEventListener("keydown", (event) => handleKey(event, this));
    this.observe();
    this.build();
    el.append(this.root);
    this.request();
  }

  // What is observed.

  observe() {
    this.seen = new Map(); // element → panel
    this.intersection = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const owner = entry.target === this.root ? this : this.seen.get(entry.target);
        if (owner) owner.visible = entry.isIntersecting;
      }
      this.request();
    });
    this.sizes = new ResizeObserver((entries) => {
      for (const entry of entries) {
        const chart = this.seen.get(entry.target);
        if (chart) chart.width = Math.floor(entry.contentRect.width);
        else this.root.classList.toggle("llmlab-narrow", entry.contentRect.width < 560);
      }
      this.request();
    });
    // The page's theme may be named on any element around this view, and it may be moved.
    this.themes = new MutationObserver(() => this.request());
    const attribute = { subtree: true, attributeFilter: ["data-jp-theme-light"] };
    this.themes.observe(document.documentElement, attribute);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.again = () => this.request();
    this.dark.addEventListener("change", this.again);
    document.addEventListener("visibilitychange", this.again);
    this.watch = setInterval(() => this.header.showSilence(this.store), 1000);
  }

  destroy() {
    for (const observer of [this.intersection, this.sizes, this.themes]) observer.disconnect();
    this.dark.removeEventListener("change", this.again);
    document.removeEventListener("visibilitychange", this.again);
    clearInterval(this.watch);
    clearTimeout(this.timer);
    cancelAnimationFrame(this.scheduled);
    for (const part of this.parts) part.destroy();
    this.root.remove();
  }

  // What is built: once for each set of rows and panels.

  build() {
    for (const part of this.parts ?? []) part.destroy();
    this.intersection.disconnect();
    this.sizes.disconnect();
    this.seen.clear();
    this.hovered = null;
    const spec = this.store.spec;
    this.shape = JSON.stringify([spec.compact, spec.subjects, spec.rows, spec.panels]);
    this.root.classList.toggle("llmlab-compact", spec.compact);
    this.root.replaceChildren();
    this.header = new Header(this, spec.compact);
    this.asked = new RequestList(this);
    this.root.append(...this.header.nodes);
    if (spec.compact) this.buildLines(spec);
    else this.buildPanels(spec);
    this.notes = element("div", "llmlab-notes");
    this.root.append(this.asked.node, this.notes);
    this.intersection.observe(this.root);
    this.sizes.observe(this.root);
    this.refresh();
  }

  buildPanels(spec) {
    this.groups = Object.keys(GROUPS).map((group) => {
      const members = spec.subjects.filter((each) => each.group === group);
      const heading = element("div", "llmlab-group", members.length === 1 ? members[0].name : GROUPS[group]);
      const grid = element("div", "llmlab-grid");
      const panels = spec.panels
        .filter((panel) => panel.group === group && panel.rows.length)
        .map((panel) => new PanelView(this, spec, panel));
      grid.append(...panels.map((panel) => panel.node));
      this.root.append(heading, grid);
      return { heading, panels };
    });
    this.parts = this.groups.flatMap((group) => group.panels);
    for (const panel of this.parts) this.follow(panel, [panel.chart]);
  }

  buildLines(spec) {
    const panels = spec.panels.filter((panel) => panel.group === "servers" && panel.first);
    const lines = element("div", "llmlab-lines");
    const titles = element("div", "llmlab-line llmlab-line-titles");
    titles.append(element("span", "llmlab-name"));
    for (const panel of panels) titles.append(element("span", "llmlab-cell", panel.title));
    const servers = spec.subjects.filter((each) => each.group === "servers");
    this.parts = servers.map((subject) => new CompactLine(spec, subject, panels));
    lines.append(titles, ...this.parts.map((line) => line.node));
    this.groups = [];
    this.root.append(lines);
    for (const line of this.parts) this.follow(line, line.cells.filter(Boolean).map((cell) => cell.chart));
  }

  follow(part, charts) {
    this.seen.set(part.node, part);
    this.intersection.observe(part.node);
    for (const chart of charts) {
      this.seen.set(chart.holder, chart);
      this.sizes.observe(chart.holder);
    }
  }

  // What may change without being built again.

  /** The spec has changed. */
  respec() {
    const spec = this.store.spec;
    if (spec.state !== "live") this.pausedAt = null;
    if (JSON.stringify([spec.compact, spec.subjects, spec.rows, spec.panels]) !== this.shape) this.build();
    else this.refresh();
  }

  /** All that is no picture: words, states of the controls, which charts are there. */
  refresh() {
    const { spec } = this.store;
    this.root.setAttribute("aria-label", `Live view of ${spec.title}`);
    this.root.dataset.state = spec.state;
    this.header.refresh();
    this.asked.refresh();
    this.refreshGroups();
    this.refreshCounts();
    this.notes.replaceChildren(...spec.notes.map((note) => element("div", "llmlab-note", note)));
    this.request();
  }

  refreshGroups() {
    const several = this.groups.filter((group) => group.panels.length).length > 1;
    for (const { heading, panels } of this.groups) {
      for (const panel of panels) panel.node.hidden = !panel.panel.first && !this.more;
      heading.hidden = !several || panels.every((panel) => panel.node.hidden);
    }
  }

  refreshCounts() {
    this.root.dataset.looks = this.store.history.length;
    this.root.dataset.requests = this.store.requests.items.length;
  }

  // What is shown.

  /** The newest look that is shown. */
  newest() {
    const last = this.store.history.length ? this.store.history.last : 0;
    if (this.play) return Math.min(last, this.played());
    return this.pausedAt ?? last;
  }

  /** How far a recording has been played. */
  played() {
    const { position, since } = this.play;
    return position + (since === null ? 0 : (performance.now() - since) / 1000);
  }

  seconds() {
    return this.window ?? (this.store.spec.state === "live" ? WINDOWS[0].seconds : Infinity);
  }

  /** @returns {[number, number]} The stretch of time that is shown. */
  range() {
    const { history } = this.store;
    if (this.zoom) return this.zoom;
    if (!history.length) return [-WINDOWS[0].seconds, 0];
    const to = this.newest();
    if (this.play) {
      const seconds = Math.min(WINDOWS[0].seconds, Math.max(1, history.last - history.first));
      const from = Math.max(history.first, to - seconds);
      return [from, from + seconds];
    }
    const seconds = this.seconds();
    if (seconds !== Infinity) return [to - seconds, to];
    return [Math.min(history.first, to - 1), to];
  }

  /** All that a panel needs to know to draw itself. */
  frame() {
    const { spec, history, requests } = this.store;
    const [from, to] = this.range();
    const now = spec.state === "live" && !this.zoom && this.pausedAt === null;
    const limit = this.play ? this.newest() : Infinity;
    const cursor = this.cursorTime(from, to);
    const index = this.indexShown(cursor);
    return {
      from,
      to,
      limit,
      history,
      cursor,
      index,
      period: spec.period,
      mode: now ? "ago" : spec.epoch === null || spec.state === "recording" ? "elapsed" : "clock",
      epoch: spec.epoch ?? 0,
      theme: readTheme(this.root),
      colours: new Map(
        spec.subjects.filter((each) => each.group === "servers").map((each) => [each.name, each.colour]),
      ),
      requests: requests.items.filter((each) => each.began < to && each.began + each.total > from),
      sensors: this.sensors,
      selected: this.selected,
      recording: spec.state === "recording",
      hovered: this.hovered,
      cursorText: cursor === null ? "" : this.timeText(cursor),
    };
  }

  /** The cursor's time: that of the look it is at, or of the place itself where nothing was looked at. */
  cursorTime(from, to) {
    if (!this.pointer) return null;
    const time = this.pointer.time ?? from + this.pointer.share * (to - from);
    const index = this.indexShown(time);
    return index < 0 ? time : this.store.history.times[index];
  }

  /** The look at a time, or the newest for null; -1 where nothing was looked at. */
  indexShown(time) {
    const { history, spec } = this.store;
    const index = history.nearest(Math.min(time ?? Infinity, this.newest()));
    if (index < 0 || time === null) return index;
    return Math.abs(history.times[index] - time) > (MISSED / 2) * spec.period ? -1 : index;
  }

  timeText(time, digits = 1) {
    const { spec } = this.store;
    if (spec.state === "recording" || spec.epoch === null) return `${time.toFixed(digits)} s`;
    return clockText(spec.epoch, time, digits);
  }

  // When it is drawn.

  /** Ask for a picture: at once for what a person did, at most every `DRAW_MS` for data. */
  request(forData = false) {
    if (!this.visible || document.hidden) return; // becoming visible asks again
    this.atOnce ||= !forData;
    if (this.scheduled) return;
    const wait = forData ? this.lastTick + DRAW_MS - performance.now() : 0;
    if (wait > 0) {
      this.timer ??= setTimeout(() => {
        this.timer = undefined;
        if (this.pausedAt === null) this.request(true);
      }, wait);
      return;
    }
    this.scheduled = requestAnimationFrame(() => {
      this.scheduled = 0;
      this.tick();
    });
  }

  /** Draw. Where a pixel is seconds, new looks are drawn less often; their values are shown all the same. */
  tick() {
    this.endPlay();
    const frame = this.frame();
    this.lastTick = performance.now();
    const pixel = Math.min(SLOWEST_MS, ((frame.to - frame.from) / USUAL_WIDTH) * 1000);
    if (this.atOnce || this.lastTick - this.lastPaint >= pixel) this.paint(frame);
    else {
      this.point(frame);
      this.request(true);
    }
  }

  /** There are new looks or requests. */
  arrived(requestsToo) {
    this.refreshCounts();
    this.header.showSilence(this.store);
    if (requestsToo) this.asked.refresh();
    if (this.pausedAt === null && !this.play) this.request(true);
  }

  paint(frame) {
    this.atOnce = false;
    this.lastPaint = this.lastTick;
    this.paints++;
    const shown = this.parts.filter((part) => part.visible && !part.node.hidden);
    for (const part of shown) part.paint(frame);
    this.point(frame, shown);
    Object.assign(this.root.dataset, { paints: this.paints, from: frame.from, to: frame.to });
    if (this.play && this.play.since !== null) this.request(true);
  }

  /** The cursor and the values there: no canvas is touched. */
  point(frame = this.frame(), shown = this.parts.filter((part) => part.visible)) {
    for (const part of shown) part.point(frame);
    const { spec, history } = this.store;
    const last = frame.index < 0 ? null : history.times[frame.index];
    let text = frame.cursorText;
    if (frame.cursor !== null && frame.mode === "ago") text += `, ${agoText(frame.cursor - frame.to, 1)}`;
    if (frame.cursor === null && last !== null)
      text = spec.state === "live" || this.play ? this.timeText(last, 0) : this.lengthOfAll();
    setText(this.header.time, text);
  }

  lengthOfAll() {
    const { spec, history } = this.store;
    const length = lengthText(Math.round(history.last - history.first));
    return spec.state === "recording" ? `${length} long` : `watched for ${length}`;
  }

  // What a person does.

  pointAt(pointer, panel) {
    this.pointer = pointer;
    this.hovered = panel;
    this.point();
  }

  stepCursor(looks) {
    const { history } = this.store;
    if (!history.length) return;
    const [from, to] = this.range();
    const now = this.cursorTime(from, to);
    const index = history.nearest(now ?? this.newest()) + (now === null ? 0 : looks);
    const first = Math.min(history.indexAt(from), history.end - 1);
    const last = history.nearest(Math.min(to, this.newest()));
    this.pointAt({ time: history.times[Math.max(first, Math.min(last, index))] }, null);
  }

  zoomTo(range, selected = null) {
    this.endPlay(true);
    const middle = (range[0] + range[1]) / 2;
    const half = Math.max(ZOOM_MIN_S, range[1] - range[0]) / 2;
    this.zoom = [middle - half, middle + half];
    this.selected = selected;
    this.refresh();
  }

  /** Zoom about the cursor, or the newest look. */
  zoomBy(factor) {
    const [from, to] = this.range();
    const about = this.cursorTime(from, to) ?? Math.min(to, this.newest());
    this.zoomTo([about - (about - from) * factor, about + (to - about) * factor]);
  }

  leaveZoom() {
    this.zoom = this.selected = this.pointer = null;
    this.refresh();
  }

  backToNow() {
    this.pausedAt = null;
    this.leaveZoom();
  }

  showWindow(seconds) {
    this.endPlay(true);
    this.window = seconds;
    this.leaveZoom();
  }

  /** Zoom to a request with a fifth of its length at either side; if it is, leave it. */
  showRequest(request) {
    if (this.selected === request.key) return this.leaveZoom();
    const margin = Math.max(0.5, request.total / 5);
    return this.zoomTo([request.began - margin, request.began + request.total + margin], request.key);
  }

  toggle(name) {
    this[name] = !this[name];
    this.refresh();
  }

  togglePause() {
    const { state } = this.store.spec;
    if (state === "live") this.pausedAt = this.pausedAt === null ? this.newest() : null;
    if (state === "recording") this.togglePlay();
    this.refresh();
  }

  togglePlay() {
    const { history } = this.store;
    if (!history.length) return;
    this.zoom = this.selected = null;
    if (!this.play) this.play = { position: history.first, since: performance.now() };
    else if (this.play.since === null) this.play.since = performance.now();
    else this.play = { position: this.played(), since: null };
  }

  /** Once a recording has been played to its end, all of it is shown again. */
  endPlay(now = false) {
    if (!this.play || !(now || this.played() >= this.store.history.last)) return;
    this.play = null;
    this.refresh();
  }
}
