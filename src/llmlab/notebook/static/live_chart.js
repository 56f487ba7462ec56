// One chart: uPlot draws axes and lines; what is behind and above them is drawn here.

/**
 * Colours of subjects: at least 3 : 1 against white and against #111, and as far from one another as
 * eight such colours can be, for the colour-blind (protan, deutan, tritan) too. Further subjects have them
 * again with another dash.
 */
// The picture that the view becomes has the same (SERIES_COLOURS of render/style.py).
const PALETTE = ["#4b62e4", "#f3650e", "#01a962", "#a479fb", "#c11f68", "#546a09", "#9140ad", "#c06aa5"];
/** Dash patterns of a line, and how CSS calls the like. */
const DASHES = [
  { line: [], border: "solid" },
  { line: [7, 3], border: "dashed" },
  { line: [2, 3], border: "dotted" },
];
/** How dark a request's parts are; the queue is hatched besides. */
const SHADES = { queue: 0.07, prefill: 0.34, decode: 0.15 };
const PLOT_HEIGHT = 120;
const MINUTE = 60;

const colourOf = (index) => PALETTE[index % PALETTE.length];
const dashOf = (index) => DASHES[Math.floor(index / PALETTE.length) % DASHES.length];

/** The theme's colours, as the style sheet has them. */
function readTheme(root) {
  const style = getComputedStyle(root);
  const of = (name) => style.getPropertyValue(`--llmlab-${name}`).trim();
  return {
    text: of("text"),
    quiet: of("quiet"),
    grid: of("grid"),
    shade: Number(of("shade")) || 1,
    font: style.fontFamily,
  };
}

/** A value as it is read: whole, or three digits, of which at most three after the point. */
function numberText(value) {
  if (value === null || Number.isNaN(value)) return "unknown";
  const size = Math.abs(value);
  if (size >= 10000) return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  if (size < 0.001) return value > 0 ? "<0.001" : "0";
  return String(Number(Number(value.toPrecision(3)).toFixed(3)));
}

/** The same with its unit; of unknown none. */
function valueText(value, unit) {
  const text = numberText(value);
  return text === "unknown" || !unit ? text : `${text}\u00a0${unit}`;
}

/** A value beside an axis: short. */
function axisText(value) {
  if (value >= 1e7) return `${numberText(value / 1e6)}M`;
  return value >= 1e4 ? `${numberText(value / 1000)}k` : String(Number(value.toPrecision(4)));
}

const two = (value) => String(value).padStart(2, "0");

/** Wall clock of the reader's, with tenths of seconds where they are asked for. */
function clockText(epoch, time, digits = 0) {
  const unit = 10 ** digits;
  const date = new Date((Math.round((epoch + time) * unit) / unit) * 1000);
  const rest = digits ? `.${String(date.getMilliseconds()).padStart(3, "0").slice(0, digits)}` : "";
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}${rest}`;
}

/** A length of time. */
function lengthText(seconds) {
  if (seconds < 2 * MINUTE) return `${numberText(Number(seconds.toPrecision(3)))} s`;
  const minutes = Math.round(seconds / MINUTE);
  return minutes < 120 ? `${minutes} min` : `${numberText(seconds / 3600)} h`;
}

/** The lowest of the nice figures that is not below a value. */
function niceAbove(value) {
  if (!(value > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((each) => each * size >= value * (1 - 1e-9)) * size;
}

/**
 * Where the y axis ends: at what cannot be exceeded, where that is near; else a little above the highest.
 * @param {number} high
 * @param {(?number)[]} mosts What each row cannot exceed.
 */
function ceiling(high, mosts) {
  const most = mosts.length && mosts.every((each) => each > 0) ? Math.max(...mosts) : null;
  if (most !== null && high > most / 4) return Math.max(most, high);
  // Of what is nearly nothing the noise is not blown up to the whole height.
  return niceAbove(Math.max(high * 1.02, most === null ? 0 : most / 50));
}

/** Two to four places on the y axis, the end among them. */
function ySplits(top) {
  const size = 10 ** Math.floor(Math.log10(top));
  const steps = { 1: 0.5, 1.5: 0.5, 2: 1, 3: 1, 4: 2, 5: 2.5, 6: 2, 8: 4 };
  const step = (steps[Number((top / size).toPrecision(6))] ?? niceAbove(top / size / 2.2)) * size;
  const found = [];
  for (let value = 0; value < top - step * 0.45; value += step) found.push(value);
  return [...found, top];
}

const X_STEPS = [
  0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400,
];

/**
 * Places on the x axis and what stands there: seconds before now, wall clock, or seconds since the beginning.
 * @returns {{at: number[], texts: string[]}}
 */
function xSplits({ from, to, mode, epoch }, width) {
  const space = mode === "clock" ? 84 : 62;
  const step = X_STEPS.find((each) => (each / (to - from)) * width >= space) ?? to - from;
  const at = [];
  if (mode === "ago") {
    for (let time = to; time >= from - 1e-6; time -= step) at.unshift(time);
    return { at, texts: at.map((time) => agoText(time - to, step)) };
  }
  const base = mode === "clock" ? -(epoch % 3600) : 0;
  const first = Math.ceil((from - base) / step - 1e-9);
  for (let i = first; base + i * step <= to + 1e-9; i++) at.push(base + i * step);
  const digits = step >= 1 ? 0 : step >= 0.1 ? 1 : 2;
  const text = (time) => {
    if (mode === "clock") return clockText(epoch, time, digits);
    return step >= MINUTE ? lengthText(time) : `${time.toFixed(digits)} s`;
  };
  return { at, texts: at.map(text) };
}

function agoText(seconds, step) {
  const size = Math.round(-seconds * 100) / 100;
  if (size === 0) return "now";
  return step >= MINUTE ? `−${numberText(size / MINUTE)} min` : `−${numberText(size)} s`;
}

/** Diagonal lines over a rectangle, in canvas pixels; rising ones for unknown, falling ones for a queue. */
function hatch(ctx, left, top, width, height, colour, alpha, step, falling = false) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  ctx.beginPath();
  // They stand at fixed places of the canvas: where the rectangle begins makes no difference.
  const slope = falling ? -1 : 1;
  const begin = left + slope * top - (falling ? height : 0);
  for (let at = Math.floor(begin / step) * step; at < begin + width + height + step; at += step) {
    ctx.moveTo(at - slope * top, top);
    ctx.lineTo(at - slope * (top + height), top + height);
  }
  ctx.strokeStyle = colour;
  ctx.globalAlpha = alpha;
  ctx.lineWidth = Math.max(1, step / 6);
  ctx.stroke();
  ctx.restore();
}

/** A chart in a holder. `paint` draws a frame; nothing is made before the first one. */
class Chart {
  /**
   * @param {HTMLElement} holder Gives the width.
   * @param {{spec: Spec, group: string, rows: number[], bare?: boolean, subject?: string,
   *   height?: number}} what
   *   Bare: without axes. Subject: whose requests alone are drawn.
   */
  constructor(holder, what) {
    this.holder = holder;
    this.what = what;
    this.rows = what.rows.map((row) => what.spec.rows[row]);
    this.width = 0; // set by whoever observes the holder
    this.data = [];
  }

  /** Draw a frame (see `View.frame`). */
  paint(frame) {
    const width = this.width || this.holder.clientWidth;
    if (width < 20 || !frame.history.values.length) return;
    this.frame = frame;
    this.found = course(frame.history, this.what.rows, frame, width, this.data);
    this.gaps = unknown(frame.history, this.what.rows, frame);
    this.top = ceiling(this.highest(), this.rows.map((row) => row.most));
    this.ticks = xSplits(frame, width);
    if (!this.plot) this.plot = new uPlot(this.options(width), this.series(), this.holder);
    else if (this.plot.width !== width) this.plot.setSize({ width, height: this.height });
    this.plot.batch(() => {
      this.plot.setData(this.series(), false);
      this.plot.setScale("x", { min: frame.from, max: frame.to });
      this.plot.setScale("y", { min: Math.min(0, this.found.low), max: this.top });
    });
  }

  /** Where a time is, in CSS pixels from the left end of the plot; null if it is not shown. */
  place(time) {
    if (!this.plot || time < this.frame.from || time > this.frame.to) return null;
    return this.plot.valToPos(time, "x");
  }

  destroy() {
    this.plot?.destroy();
    this.plot = undefined;
  }

  get height() {
    return this.what.height ?? PLOT_HEIGHT;
  }

  highest() {
    const above = this.frame.sensors ? Math.max(0, ...this.rows.map((row) => row.error?.[1] ?? 0)) : 0;
    return this.found.high * (1 + above);
  }

  /** uPlot wants two points at least. */
  series() {
    if (this.data[0].length > 1) return this.data;
    const { from, to } = this.frame;
    const rest = this.data.slice(1).map((values) => [values[0] ?? null, null]);
    return [[this.data[0][0] ?? from, Math.max(to, this.data[0][0] ?? to) + 1], ...rest];
  }

  options(width) {
    const bare = this.what.bare === true;
    return {
      width,
      height: this.height,
      padding: bare ? [2, 1, 1, 1] : [8, 16, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      select: { show: false },
      scales: {
        x: { time: false, auto: false, range: () => [this.frame.from, this.frame.to] },
        y: { auto: false, range: () => [Math.min(0, this.found.low), this.top] },
      },
      axes: bare ? [{ show: false }, { show: false }] : this.axes(),
      series: [{}, ...this.rows.map((row, i) => this.line(row, i, bare))],
      hooks: {
        drawClear: [(plot) => this.drawBehind(plot)],
        drawAxes: [(plot) => this.frame.sensors && this.drawErrors(plot)],
        draw: [(plot) => this.drawAbove(plot)],
      },
    };
  }

  line(row, i, bare) {
    return {
      stroke: colourOf(row.colour),
      width: bare ? 1.25 : 1.5,
      dash: dashOf(row.colour).line,
      auto: false,
      // A single value between two unknown ones has no line: it is a dot.
      points: { show: false, size: 3.5, fill: colourOf(row.colour), filter: () => lonely(this.data[i + 1]) },
    };
  }

  axes() {
    const font = `11px ${this.frame.theme.font}`;
    const common = { font, stroke: () => this.frame.theme.quiet, ticks: { show: false } };
    const grid = { stroke: () => this.frame.theme.grid, width: 1 };
    return [
      {
        ...common,
        size: 20,
        gap: 4,
        grid: { show: false },
        splits: () => this.ticks.at,
        values: () => this.ticks.texts,
      },
      {
        ...common,
        size: 36,
        gap: 6,
        grid,
        splits: () => ySplits(this.top),
        values: (_, at) => at.map(axisText),
      },
    ];
  }

  // What follows draws in canvas pixels.

  /** Draw with the plot's area as the only place that is touched. */
  within(plot, draw) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    draw(ctx, bbox, uPlot.pxRatio);
    ctx.restore();
  }

  /** The part of [from, to] that is shown, as [left, width]; null if none is. */
  stretch(plot, from, to, limit = Infinity) {
    const [since, until] = [Math.max(from, this.frame.from), Math.min(to, this.frame.to, limit)];
    if (until <= since) return null;
    const [left, right] = [since, until].map((time) => plot.valToPos(time, "x", true));
    return [left, Math.max(right - left, uPlot.pxRatio)];
  }

  drawBehind(plot) {
    this.within(plot, (ctx, { top, height }, ratio) => {
      for (const request of this.frame.requests) this.drawRequest(plot, ctx, request, top, height, ratio);
      for (const [from, to] of this.gaps.all) {
        const at = this.stretch(plot, from, to);
        if (at) hatch(ctx, at[0], top, at[1], height, this.frame.theme.text, 0.3, 6 * ratio);
      }
      this.drawSingleGaps(plot, ctx, top + height, ratio);
    });
  }

  drawRequest(plot, ctx, request, top, height, ratio) {
    if (this.what.subject !== undefined && request.subject !== this.what.subject) return;
    const own = this.what.group === "servers" && this.frame.colours.has(request.subject);
    const colour = own ? colourOf(this.frame.colours.get(request.subject)) : this.frame.theme.text;
    for (const part of phases(request)) {
      const at = this.stretch(plot, part.from, part.to, this.frame.limit);
      if (!at) continue;
      ctx.globalAlpha = SHADES[part.kind] * this.frame.theme.shade * (own ? 1 : 0.6);
      ctx.fillStyle = colour;
      ctx.fillRect(at[0], top, at[1], height);
      ctx.globalAlpha = 1;
      if (part.kind === "queue") hatch(ctx, at[0], top, at[1], height, colour, 0.45, 4 * ratio, true);
    }
  }

  /** Strips at the bottom, one above the other, each in its row's colour. */
  drawSingleGaps(plot, ctx, bottom, ratio) {
    const height = 5 * ratio;
    this.gaps.single
      .map((stretches, i) => ({ stretches, colour: colourOf(this.rows[i].colour) }))
      .filter(({ stretches }) => stretches.length)
      .slice(0, 6)
      .forEach(({ stretches, colour }, place) => {
        for (const [from, to] of stretches) {
          const at = this.stretch(plot, from, to);
          if (!at) continue;
          const top = bottom - (place + 1) * height;
          ctx.fillStyle = colour;
          ctx.globalAlpha = 0.25;
          ctx.fillRect(at[0], top, at[1], height - ratio);
          ctx.globalAlpha = 1;
          hatch(ctx, at[0], top, at[1], height - ratio, colour, 1, 4 * ratio);
        }
      });
  }

  /** How far the sensors may be off, around each line. */
  drawErrors(plot) {
    this.within(plot, (ctx) => {
      ctx.globalAlpha = 0.18;
      this.rows.forEach((row, r) => {
        if (!row.error) return;
        ctx.fillStyle = colourOf(row.colour);
        const [times, values] = [this.data[0], this.data[r + 1]];
        for (let i = 0, begin = 0; i <= values.length; i++) {
          if (i < values.length && values[i] !== null) continue;
          this.fillError(plot, ctx, row.error, times, values, begin, i);
          begin = i + 1;
        }
      });
    });
  }

  fillError(plot, ctx, [below, above], times, values, begin, end) {
    const at = [];
    for (let i = begin; i < end; i++) if (values[i] !== undefined) at.push(i);
    if (at.length < 2) return;
    const point = (i, share) =>
      ctx.lineTo(plot.valToPos(times[i], "x", true), plot.valToPos(values[i] * share, "y", true));
    ctx.beginPath();
    at.forEach((i) => point(i, 1 + above));
    at.reverse().forEach((i) => point(i, 1 - below));
    ctx.fill();
  }

  drawAbove(plot) {
    this.within(plot, (ctx, { left, top, width, height }, ratio) => {
      const chosen = this.frame.requests.find((request) => request.key === this.frame.selected);
      const at = chosen && this.stretch(plot, chosen.began, chosen.began + chosen.total);
      ctx.strokeStyle = ctx.fillStyle = this.frame.theme.text;
      if (at) {
        ctx.globalAlpha = 0.7;
        ctx.lineWidth = ratio;
        ctx.strokeRect(at[0], top + ratio / 2, at[1], height - ratio);
      }
      if (!this.frame.recording) return;
      const size = Math.min(width / 8.5, height / 1.6);
      ctx.globalAlpha = 0.17;
      ctx.font = `700 ${size}px ${this.frame.theme.font}`;
      ctx.textAlign = "center";
      ctx.textBaseline = "middle";
      ctx.fillText("RECORDING", left + width / 2, top + height / 2, width);
    });
  }
}

/** Indices of values with nothing known at either side. */
function lonely(values) {
  const found = [];
  let [before, last] = [null, -1]; // the value before, and where it was
  for (let i = 0, alone = false; i <= values.length; i++) {
    const value = i < values.length ? values[i] : null;
    if (value === undefined) continue;
    if (value === null && alone) found.push(last);
    alone = value !== null && before === null;
    [before, last] = [value, i];
  }
  return found;
}
