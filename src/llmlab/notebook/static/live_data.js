// What is known, apart from how it is drawn: the spec, the looks, the requests.
// Everything that comes from the kernel passes through here and is checked on the way.

/** Looks that are held; older ones are forgotten. */
const LOOKS = 7200;
/** Room behind the newest look: the looks are moved to the front only when it is used up. */
const SLACK = 800;
/** Requests that are held. */
const REQUESTS = 200;
/** A distance of more than that many periods between two looks means that one was missed. */
const MISSED = 2.5;

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const listOf = (value) => (Array.isArray(value) ? value : []);
const textOf = (value) => (typeof value === "string" ? value.slice(0, 1000) : "");
/** A finite number, or null. */
const numberOf = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

/**
 * @typedef {{subject: string, title: string, unit: string, method: string, interval: ?number,
 *   most: ?number, error: ?[number, number], colour: number}} Row
 * @typedef {{group: string, title: string, unit: string, rows: number[], first: boolean}} Panel
 * @typedef {{version: number, title: string, period: number, state: string, why: string, epoch: ?number,
 *   recording: string, compact: boolean, subjects: {name: string, group: string, colour: number}[],
 *   rows: Row[], panels: Panel[], notes: string[]}} Spec
 */

/**
 * The spec as the views use it; what is missing or of a wrong type becomes empty, never an error.
 * @param {any} raw
 * @returns {Spec}
 */
function readSpec(raw) {
  const given = isObject(raw) ? raw : {};
  const subjects = listOf(given.subjects).filter(isObject).map((each) => ({
    name: textOf(each.name),
    group: ["servers", "gpus"].includes(each.group) ? each.group : "machine",
    colour: Math.max(0, Math.floor(numberOf(each.colour) ?? 0)),
  }));
  const rows = listOf(given.rows).map((each) => readRow(isObject(each) ? each : {}, subjects));
  const hz = numberOf(given.hz) ?? 0;
  const epoch = numberOf(given.epoch_s) ?? 0;
  return {
    version: numberOf(given.version) ?? -1,
    title: textOf(given.title),
    period: hz > 0 ? 1 / hz : 1,
    state: ["live", "recording"].includes(given.state) ? given.state : "stopped",
    why: textOf(given.why),
    epoch: epoch > 0 ? epoch : null,
    recording: textOf(given.recording),
    compact: given.compact === true,
    subjects,
    rows,
    panels: listOf(given.panels).filter(isObject).map((each) => readPanel(each, rows.length)),
    notes: listOf(given.notes).map(textOf),
  };
}

function readRow(given, subjects) {
  const subject = textOf(given.subject);
  const error = listOf(given.error).map(numberOf);
  return {
    subject,
    key: textOf(given.key),
    title: textOf(given.title),
    unit: textOf(given.unit),
    method: textOf(given.method),
    interval: numberOf(given.interval_s),
    most: numberOf(given.most),
    error: error.length === 2 && !error.includes(null) ? error : null,
    colour: subjects.find((each) => each.name === subject)?.colour ?? 0,
  };
}

function readPanel(given, count) {
  return {
    group: ["servers", "gpus"].includes(given.group) ? given.group : "machine",
    title: textOf(given.title),
    unit: textOf(given.unit),
    rows: listOf(given.rows).filter((row) => Number.isInteger(row) && row >= 0 && row < count),
    first: given.first === true,
  };
}

/**
 * A request, or null if it is none.
 * @returns {?{key: string, subject: string, began: number, total: number, ttft: ?number, queue: ?number,
 *   prefill: ?number, tokens: ?number, rate: ?number, outcome: string, joules: ?number, note: string}}
 */
function readRequest(raw) {
  const given = isObject(raw) ? raw : {};
  const began = numberOf(given.began_s);
  const total = numberOf(given.total_s);
  if (began === null || total === null) return null;
  const subject = textOf(given.subject);
  return {
    key: `${subject}\n${began}`,
    subject,
    began,
    total: Math.max(0, total),
    ttft: numberOf(given.ttft_s),
    queue: numberOf(given.queue_s),
    prefill: numberOf(given.prefill_s),
    tokens: numberOf(given.tokens),
    rate: numberOf(given.tokens_per_s),
    outcome: textOf(given.outcome),
    joules: numberOf(given.joules_per_token),
    note: textOf(given.energy_note),
  };
}

/**
 * A request's parts one after the other. Without a known queue all until the first piece of text
 * counts as prefill; without any text all of it does.
 * @returns {{kind: "queue"|"prefill"|"decode", from: number, to: number}[]}
 */
function phases(request) {
  const end = request.began + request.total;
  const first = request.ttft === null ? end : Math.min(end, request.began + request.ttft);
  const read = request.queue === null ? request.began : Math.min(first, request.began + request.queue);
  return [
    { kind: "queue", from: request.began, to: read },
    { kind: "prefill", from: read, to: first },
    { kind: "decode", from: first, to: end },
  ].filter((part) => part.to > part.from);
}

/** The newest requests, oldest first, each once. */
class Requests {
  constructor() {
    this.items = [];
  }

  /** @param {any} raw What the kernel has sent. */
  add(raw) {
    const found = new Map(this.items.map((each) => [each.key, each]));
    for (const each of listOf(raw).slice(-REQUESTS)) {
      const request = readRequest(each);
      if (request) found.set(request.key, request);
    }
    this.items = [...found.values()].sort((a, b) => a.began - b.began).slice(-REQUESTS);
  }
}

const viewOf = (buffer) =>
  ArrayBuffer.isView(buffer)
    ? new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength)
    : new DataView(buffer instanceof ArrayBuffer ? buffer : new ArrayBuffer(0));

/**
 * The newest looks, oldest first, in arrays that are made once and used again.
 * Look i is at `times[i]`, with `begin <= i < end`; row r's value there is `values[r][i]`, NaN for unknown.
 */
class History {
  constructor() {
    this.version = -1;
    this.seq = 0;
    this.times = new Float64Array(LOOKS + SLACK);
    this.values = [];
    this.begin = 0;
    this.end = 0;
  }

  get length() {
    return this.end - this.begin;
  }

  get first() {
    return this.times[this.begin];
  }

  get last() {
    return this.times[this.end - 1];
  }

  /**
   * Put what a `hist` buffer holds in the place of all looks.
   * @returns {boolean} False if it is none, or none of this version and number of rows: nothing is changed.
   */
  replace(buffer, versionWanted, rowsWanted) {
    const data = viewOf(buffer);
    if (data.byteLength < 16) return false;
    const [version, seq, rows, looks] = [0, 4, 8, 12].map((at) => data.getUint32(at, true));
    const valuesAt = 16 + 8 * looks;
    if (data.byteLength !== valuesAt + 4 * rows * looks) return false;
    if (version !== versionWanted || rows !== rowsWanted) return false;
    this.resize(rows);
    Object.assign(this, { version, seq, begin: 0, end: 0 });
    const skipped = Math.max(0, looks - LOOKS);
    for (let i = skipped; i < looks; i++) {
      this.times[this.end] = data.getFloat64(16 + 8 * i, true);
      for (let r = 0; r < rows; r++)
        this.values[r][this.end] = data.getFloat32(valuesAt + 4 * (r * looks + i), true);
      this.end++;
    }
    return true;
  }

  /**
   * Add the looks of an "append" message.
   * @returns {boolean} False if they do not follow what is held: then nothing is changed.
   */
  append(version, seq, looks, buffer) {
    const data = viewOf(buffer);
    const rows = this.values.length;
    if (version !== this.version || seq - looks !== this.seq) return false;
    if (!Number.isInteger(looks) || looks < 0 || data.byteLength !== looks * (8 + 4 * rows)) return false;
    for (let i = Math.max(0, looks - LOOKS); i < looks; i++) {
      if (this.end === this.times.length) this.moveToFront();
      this.times[this.end] = data.getFloat64(8 * i, true);
      for (let r = 0; r < rows; r++)
        this.values[r][this.end] = data.getFloat32(8 * looks + 4 * (i * rows + r), true);
      this.end++;
      this.begin = Math.max(this.begin, this.end - LOOKS);
    }
    this.seq = seq;
    return true;
  }

  /** Rows of another spec: known ones keep their values until its history is here. */
  remap(rowsBefore, rowsNow) {
    const before = new Map(rowsBefore.map((row, i) => [`${row.subject}\n${row.key}`, this.values[i]]));
    this.values = rowsNow.map(
      (row) => before.get(`${row.subject}\n${row.key}`) ?? new Float32Array(LOOKS + SLACK).fill(NaN),
    );
    this.version = -1; // what is appended now does not fit
  }

  resize(rows) {
    this.values.length = Math.min(this.values.length, rows);
    while (this.values.length < rows) this.values.push(new Float32Array(LOOKS + SLACK));
  }

  moveToFront() {
    for (const array of [this.times, ...this.values]) array.copyWithin(0, this.begin, this.end);
    this.end -= this.begin;
    this.begin = 0;
  }

  /** The first look at or after a time; `end` if there is none. */
  indexAt(time) {
    let [low, high] = [this.begin, this.end];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle] < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The look that is nearest to a time; -1 if there is none at all. */
  nearest(time) {
    if (!this.length) return -1;
    const after = Math.min(this.indexAt(time), this.end - 1);
    const before = Math.max(after - 1, this.begin);
    return time - this.times[before] < this.times[after] - time ? before : after;
  }

  /** The looks from the last one before `from` to the first one after `to`, as [first, past the last]. */
  around(from, to) {
    return [Math.max(this.begin, this.indexAt(from) - 1), Math.min(this.end, this.indexAt(to) + 1)];
  }
}

/**
 * Rows' courses as uPlot takes them: `data` is [times, values of the first row, …] with null where a line
 * ends and undefined where it goes on without a point. Of more than two looks per column only the highest
 * and the lowest are kept. `low` and `high` are over all rows.
 *
 * @param {History} history
 * @param {number[]} rows
 * @param {{from: number, to: number, limit: number, period: number}} frame
 * @param {number} columns Pixels.
 * @param {any[][]} data Arrays to use again.
 */
function course(history, rows, frame, columns, data = []) {
  data.length = rows.length + 1;
  for (let i = 0; i < data.length; i++) (data[i] ??= []).length = 0;
  const [begin, end] = history.around(frame.from, Math.min(frame.to, frame.limit));
  const out = { data, low: Infinity, high: -Infinity };
  // Columns are counted from time 0, so that a picture that scrolls does not flicker.
  const column = end - begin > 2 * columns ? (frame.to - frame.from) / columns : 0;
  for (let i = begin, next; i < end; i = next) {
    next = i + 1;
    if (column > 0) {
      const place = Math.floor(history.times[i] / column);
      while (next < end && Math.floor(history.times[next] / column) === place) next++;
    }
    if (i > begin && missed(history, i, frame.period))
      put(out, (history.times[i - 1] + history.times[i]) / 2, () => null);
    if (next - i === 1) put(out, history.times[i], (r) => known(history.values[rows[r]][i]));
    else putColumn(out, history, rows, i, next, frame.period);
  }
  return out;
}

const known = (value) => (Number.isNaN(value) ? null : value);
const missed = (history, i, period) => history.times[i] - history.times[i - 1] > MISSED * period;

function put(out, time, valueOf) {
  out.data[0].push(time);
  for (let r = 0; r + 1 < out.data.length; r++) {
    const value = valueOf(r);
    out.data[r + 1].push(value);
    if (typeof value !== "number") continue;
    if (value < out.low) out.low = value;
    if (value > out.high) out.high = value;
  }
}

/** Several looks in one column: each row's extremes in their order, and between them where it was unknown. */
function putColumn(out, history, rows, begin, end, period) {
  const { times, values } = history;
  let skipped = false;
  for (let i = begin + 1; i < end && !skipped; i++) skipped = missed(history, i, period);
  const found = rows.map((row) => extremes(values[row], begin, end, skipped));
  const [since, until] = [times[begin], times[end - 1]];
  put(out, since, (r) => found[r][0]);
  if (found.some((each) => each[1] !== undefined)) put(out, (since + until) / 2, (r) => found[r][1]);
  put(out, until, (r) => found[r][2]);
}

/**
 * What stands at the beginning, in the middle and at the end of a column: the lowest and the highest in
 * their order, and null where the row was unknown; undefined in the middle where it never was.
 */
function extremes(values, begin, end, skipped) {
  let [low, high, unknown] = [-1, -1, skipped];
  for (let i = begin; i < end; i++) {
    if (Number.isNaN(values[i])) unknown = true;
    else {
      if (low < 0 || values[i] < values[low]) low = i;
      if (high < 0 || values[i] > values[high]) high = i;
    }
  }
  if (low < 0) return [null, null, null];
  const [one, other] = [values[Math.min(low, high)], values[Math.max(low, high)]];
  if (!unknown) return [one, undefined, other];
  const [fromUnknown, toUnknown] = [Number.isNaN(values[begin]), Number.isNaN(values[end - 1])];
  if (fromUnknown && toUnknown) return [null, values[high], null];
  if (fromUnknown) return [null, one, other];
  return toUnknown ? [one, other, null] : [one, null, other];
}

/**
 * Stretches of time in which nothing is known: of all rows, and of single rows while others are known.
 * A stretch reaches to the known looks at both sides, as no line is drawn there.
 * @returns {{all: number[][], single: number[][][]}} Each stretch as [from, to].
 */
function unknown(history, rows, frame) {
  const [begin, end] = history.around(frame.from, Math.min(frame.to, frame.limit));
  const columns = rows.map((row) => history.values[row]);
  const counts = new Uint16Array(Math.max(0, end - begin)); // how many rows are known at each look
  for (const values of columns)
    for (let i = begin; i < end; i++) if (!Number.isNaN(values[i])) counts[i - begin]++;
  const none = (i) => counts[i - begin] === 0;
  const stretches = (isUnknown, gaps) => {
    const found = [];
    const add = (from, to) => {
      const before = found[found.length - 1];
      if (before && before[1] >= from) before[1] = to;
      else if (to > from) found.push([from, to]);
    };
    for (let i = begin; i < end; i++) {
      const since = history.times[Math.max(i - 1, begin)];
      if (isUnknown(i)) add(since, history.times[Math.min(i + 1, end - 1)]);
      if (gaps && i > begin && missed(history, i, frame.period)) add(since, history.times[i]);
    }
    return found;
  };
  return {
    all: rows.length ? stretches(none, true) : [],
    single: columns.map((values) =>
      columns.length > 1 ? stretches((i) => Number.isNaN(values[i]) && !none(i), false) : [],
    ),
  };
}
