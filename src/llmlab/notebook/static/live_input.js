// Mouse, touch and keyboard.

/** Pixels that a mouse has to move for a drag. */
const DRAG = 5;

/**
 * Pointing moves the cursor, dragging with the mouse zooms in, a double click leaves the zoom; a finger
 * moves the cursor (up and down scrolls the page, see touch-action in the style sheet), two fingers zoom.
 * @param {HTMLElement} over The plot's area.
 */
function followPointer(over, view, panel) {
  const fingers = new Map();
  let drag = null; // where the mouse went down
  let pinch = null; // the range and the fingers' places when the second finger came

  const placeOf = (event) => event.clientX - over.getBoundingClientRect().left;
  const share = (pixels) => Math.min(1, Math.max(0, pixels / over.clientWidth));
  const isDrag = (event) => drag !== null && Math.abs(placeOf(event) - drag) >= DRAG;

  const down = (event) => {
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, placeOf(event));
      if (fingers.size === 2) pinch = { range: view.range(), places: [...fingers.values()].map(share) };
      else view.pointAt({ share: share(placeOf(event)) }, panel);
    } else if (event.button === 0) {
      drag = placeOf(event);
      over.setPointerCapture(event.pointerId);
    }
  };
  const move = (event) => {
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, placeOf(event));
    if (pinch && fingers.size === 2) return view.zoomTo(pinched(pinch, [...fingers.values()].map(share)));
    panel.cursor.select(isDrag(event) ? [drag, placeOf(event)] : null);
    view.pointAt({ share: share(placeOf(event)) }, panel);
  };
  const up = (event) => {
    fingers.delete(event.pointerId);
    if (fingers.size < 2) pinch = null;
    if (isDrag(event)) {
      const [from, to] = view.range();
      const ends = [share(drag), share(placeOf(event))].sort((a, b) => a - b);
      view.zoomTo(ends.map((each) => from + each * (to - from)));
    }
    cancel();
  };
  const cancel = () => {
    drag = null;
    panel.cursor.select(null);
  };

  over.addEventListener("pointerdown", down);
  over.addEventListener("pointermove", move);
  over.addEventListener("pointerup", up);
  over.addEventListener("pointercancel", (event) => {
    fingers.delete(event.pointerId);
    pinch = null;
    cancel();
  });
  over.addEventListener("pointerleave", (event) => {
    // What a finger has pointed at stays.
    if (event.pointerType !== "touch") view.pointAt(null, null);
  });
  over.addEventListener("dblclick", () => view.leaveZoom());
}

/** The range in which what was under two fingers is under them again. */
function pinched({ range: [from, to], places: [a, b] }, [c, d]) {
  const span = ((to - from) * Math.max(0.02, Math.abs(a - b))) / Math.max(0.02, Math.abs(c - d));
  const middle = from + ((a + b) / 2) * (to - from);
  const since = middle - ((c + d) / 2) * span;
  return [since, since + span];
}

/** What keys do in a view; a key that is not here is JupyterLab's or the browser's. */
const KEYS = {
  ArrowLeft: (view) => view.stepCursor(-1),
  ArrowRight: (view) => view.stepCursor(1),
  "+": (view) => view.zoomBy(0.5),
  "=": (view) => view.zoomBy(0.5),
  "-": (view) => view.zoomBy(2),
  "−": (view) => view.zoomBy(2),
  Home: (view) => view.backToNow(),
  0: (view) => view.backToNow(),
  " ": (view) => view.togglePause(),
  Escape: (view) => view.leaveZoom(),
};

/** Handle a key, and keep it from whoever else listens: in JupyterLab "0 0" restarts the kernel. */
function handleKey(event, view) {
  if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  event.stopPropagation();
  // On a button the space bar presses the button.
  if (event.key === " " && event.target.closest("button")) return;
  event.preventDefault();
  KEYS[event.key](view);
}
