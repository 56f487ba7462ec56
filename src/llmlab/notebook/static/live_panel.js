// A panel: its title, its chart, the cursor over it, its legend. And the lines of the compact form.

/**
 * An element. Text is always set as text: names and titles come from outside.
 * @param {string} tag
 * @param {string} className
 * @param {string} [text]
 */
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Set a text where it has changed: most have not, four times a second. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function button(className, text, onClick) {
  const made = element("button", `llmlab-button ${className}`, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

/** A short line in a subject's colour and dash. */
function swatch(colour) {
  const made = element("span", "llmlab-swatch");
  made.style.borderTop = `3px ${dashOf(colour).border} ${colourOf(colour)}`;
  made.setAttribute("aria-hidden", "true");
  return made;
}

/** What a sensor's values stand for, in words; "" where each look is a new, exact one. */
function sensorText(row, period) {
  const parts = [];
  if (row.interval !== null && row.interval > period) parts.push(`one value per ${lengthText(row.interval)}`);
  if (row.error) {
    const [below, above] = row.error.map((share) => numberText(Math.round(share * 1000) / 10));
    parts.push(`sensor error −${below} … +${above} %`);
  }
  return parts.join(", ");
}

/** One chart with its title and legend. */
class PanelView {
  /**
   * @param {View} view
   * @param {Spec} spec
   * @param {Panel} panel
   */
  constructor(view, spec, panel) {
    this.spec = spec;
    this.panel = panel;
    this.rows = panel.rows.map((row) => spec.rows[row]);
    this.visible = false;
    this.node = element("section", "llmlab-panel");
    this.holder = element("div", "llmlab-plot");
    this.holder.setAttribute("role", "img");
    this.holder.setAttribute("aria-label", `${panel.title} over time`);
    this.chart = new Chart(this.holder, { spec, group: panel.group, rows: panel.rows });
    this.legend = this.makeLegend();
    this.note = element("div", "llmlab-sensor");
    this.note.hidden = true;
    const single = this.rows.length === 1;
    const head = element("div", "llmlab-panel-head");
    head.append(element("span", "llmlab-panel-title", panel.title));
    if (single) head.append(this.legend);
    else head.title = this.methods();
    this.node.append(head, this.holder);
    if (!single) this.node.append(this.legend);
    this.node.append(this.note);
    this.cursor = new Cursor(this.rows);
    this.view = view;
  }

  /** How the values are measured, each way once. */
  methods() {
    return [...new Set(this.rows.map((row) => row.method))].join("\n");
  }

  makeLegend() {
    const legend = element("div", this.rows.length === 1 ? "llmlab-legend llmlab-single" : "llmlab-legend");
    const members = this.spec.subjects.filter((each) => each.group === this.panel.group).length;
    this.values = this.rows.map((row) => {
      const item = element("span", "llmlab-legend-item");
      item.title = `${row.subject}: ${row.method}`;
      const value = element("span", "llmlab-value");
      // Whose it is goes without saying where there is nobody else.
      if (this.rows.length > 1 || members > 1)
        item.append(swatch(row.colour), element("span", "llmlab-name", row.subject));
      item.append(value);
      if (this.rows.length === 1 && row.most !== null)
        item.append(element("span", "llmlab-most", `of ${numberText(row.most)}`));
      legend.append(item);
      return value;
    });
    return legend;
  }

  /** Draw a frame. */
  paint(frame) {
    const fresh = !this.chart.plot;
    this.chart.paint(frame);
    if (fresh && this.chart.plot) {
      this.chart.plot.over.append(...this.cursor.nodes);
      followPointer(this.chart.plot.over, this.view, this);
    }
    this.showSensors(frame.sensors);
  }

  /** The values at the cursor, or the newest; nothing is drawn. */
  point(frame) {
    this.rows.forEach((row, i) => {
      const value = frame.index < 0 ? NaN : (frame.history.values[this.panel.rows[i]]?.[frame.index] ?? NaN);
      setText(this.values[i], valueText(value, row.unit));
      this.values[i].classList.toggle("llmlab-unknown", Number.isNaN(value));
    });
    this.cursor.move(this.chart, frame, this.panel.rows, frame.hovered === this);
  }

  showSensors(wanted) {
    const texts = this.rows.map((row) => sensorText(row, this.spec.period));
    const same = texts.every((text) => text === texts[0]);
    const named = texts.map((text, i) => text && `${this.rows[i].subject}: ${text}`);
    const lines = same ? texts.slice(0, 1) : named;
    this.note.hidden = !wanted || !lines.some(Boolean);
    setText(this.note, lines.filter(Boolean).join("\n"));
  }

  destroy() {
    this.chart.destroy();
  }
}

/** What is over a plot: the cursor's line and time, a dot on each line, sensors' windows, a selection. */
class Cursor {
  constructor(rows) {
    this.line = element("div", "llmlab-cursor");
    this.time = element("span", "llmlab-cursor-time");
    this.line.append(this.time);
    this.selection = element("div", "llmlab-selection");
    this.dots = rows.map((row) => {
      const dot = element("div", "llmlab-dot");
      dot.style.background = colourOf(row.colour);
      return dot;
    });
    this.spans = [...new Set(rows.map((row) => row.interval).filter((interval) => interval !== null))].map(
      (interval) => ({ interval, node: element("div", "llmlab-window") }),
    );
    this.nodes = [...this.spans.map((span) => span.node), this.line, ...this.dots, this.selection];
    for (const node of this.nodes) node.hidden = true;
  }

  move(chart, frame, rows, hovered) {
    if (!chart.plot) return;
    const at = frame.cursor === null ? null : chart.place(frame.cursor);
    this.line.hidden = at === null;
    if (at !== null) {
      const width = chart.plot.over.clientWidth;
      this.line.style.transform = `translateX(${at}px)`;
      this.time.hidden = !hovered;
      setText(this.time, frame.cursorText);
      this.time.classList.toggle("llmlab-left", at > width / 2);
    }
    this.dots.forEach((dot, i) => {
      const value = frame.index < 0 ? NaN : frame.history.values[rows[i]]?.[frame.index];
      dot.hidden = at === null || !(value <= chart.top);
      if (!dot.hidden) dot.style.transform = `translate(${at}px, ${chart.plot.valToPos(value, "y")}px)`;
    });
    this.showSpans(chart, frame);
  }

  /** The stretch that a slow sensor's value stands for. */
  showSpans(chart, frame) {
    const time = frame.index < 0 ? null : frame.history.times[frame.index];
    for (const { interval, node } of this.spans) {
      const until = time === null ? null : chart.place(time);
      node.hidden = !frame.sensors || until === null || interval <= frame.period;
      if (node.hidden) continue;
      const since = chart.place(Math.max(frame.from, time - interval));
      node.style.transform = `translateX(${since}px)`;
      node.style.width = `${Math.max(1, until - since)}px`;
    }
  }

  /** Show what is being selected; null for nothing. */
  select(range) {
    this.selection.hidden = range === null;
    if (range === null) return;
    this.selection.style.transform = `translateX(${Math.min(...range)}px)`;
    this.selection.style.width = `${Math.abs(range[1] - range[0])}px`;
  }
}

/** One server on one line: a small chart of each of its first panels, with the newest value. */
class CompactLine {
  constructor(spec, subject, panels) {
    this.visible = false;
    this.node = element("div", "llmlab-line");
    const name = element("span", "llmlab-name", subject.name);
    name.title = subject.name;
    this.node.append(name);
    this.cells = panels.map((panel) => this.makeCell(spec, subject, panel));
  }

  makeCell(spec, subject, panel) {
    const cell = element("span", "llmlab-cell");
    const row = panel.rows.find((each) => spec.rows[each].subject === subject.name);
    const holder = element("span", "llmlab-spark");
    const value = element("span", "llmlab-value");
    cell.append(element("span", "llmlab-cell-title", panel.title), holder, value);
    this.node.append(cell);
    if (row === undefined) {
      value.textContent = "not measured";
      value.classList.add("llmlab-unknown");
      holder.classList.add("llmlab-none");
      return null;
    }
    cell.title = `${panel.title}: ${spec.rows[row].method}`;
    holder.setAttribute("role", "img");
    holder.setAttribute("aria-label", `${panel.title} of ${subject.name} over time`);
    const what = { spec, group: panel.group, rows: [row], bare: true, subject: subject.name, height: 24 };
    return { row, unit: spec.rows[row].unit, value, chart: new Chart(holder, what) };
  }

  paint(frame) {
    for (const cell of this.cells) cell?.chart.paint(frame);
  }

  point(frame) {
    for (const cell of this.cells) {
      if (!cell) continue;
      const value = frame.index < 0 ? NaN : (frame.history.values[cell.row]?.[frame.index] ?? NaN);
      setText(cell.value, valueText(value, cell.unit));
      cell.value.classList.toggle("llmlab-unknown", Number.isNaN(value));
    }
  }

  destroy() {
    for (const cell of this.cells) cell?.chart.destroy();
  }
}
