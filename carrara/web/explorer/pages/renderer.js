// Draws the map so that it does not stutter: straight onto a canvas of the page, and while the map moves only as many
// points as a frame has time for. Points are drawn in random order, so the first of them are a sample of all; the others
// follow, a part in each frame, once the map is still. Without it regl-scatterplot draws every point in every frame,
// into a texture of floats as large as the window, and copies that to the page.
import { createRenderer } from "/vendor/regl-scatterplot.min.js";

const MAX_FRAME = 30, MIN_FRAME = 20; // ms; between them the part of a frame stays as it is
const FIRST_PART = 10000, MIN_PART = 1000;
const NORMAL = 0, HOVERED = 2; // regl-scatterplot's numbers of point states
const CLEAR = { color: [0, 0, 0, 0], depth: 1 };

// Args: the canvas that is drawn on; how many points the map has; a function that returns the view of the map, a matrix.
export function createMapRenderer(canvas, size, getView) {
  canvas.getContext("webgl", { antialias: false, preserveDrawingBuffer: true }); // createRenderer takes this context
  const base = createRenderer({ canvas });
  let part = FIRST_PART, begin = 0, end = 0, drawScene = null, view = "", last = 0;
  let isChanged = true, isHeld = false, isDrawn = false, wasDrawn = false;

  // The command for all points draws those from begin to end; the one for the point under the pointer draws nothing.
  const regl = new Proxy(base.regl, {
    apply(target, self, [command]) {
      const pointState = command.primitive === "points" ? command.uniforms.globalState : null;
      if (pointState === HOVERED) return () => {};
      return target(pointState === NORMAL ? { ...command, offset: () => begin, count: () => end - begin } : command);
    },
  });

  function drawFrom(first, count) {
    begin = first;
    end = Math.min(size, first + count);
    drawScene();
    canvas.dataset.drawn = end;
    isDrawn = true;
  }

  // After regl-scatterplot's own work of a frame: the next part, unless the map has moved.
  function refine() {
    const now = performance.now();
    if (wasDrawn && end - begin <= part) {
      if (now - last > MAX_FRAME) part = Math.max(MIN_PART, Math.round(part * 0.7));
      else if (now - last < MIN_FRAME) part = Math.round(part * 1.2);
    }
    last = now;
    if (!isDrawn && end < size) drawFrom(end, part);
    [wasDrawn, isDrawn] = [isDrawn, false];
  }

  // regl-scatterplot wants a new picture. A pointer that only hovers changes nothing here: its mark is on another canvas.
  function render(draw) {
    const newView = String(getView());
    if (newView === view && !isChanged && !isHeld) return;
    if (!drawScene) base.onFrame(refine);
    drawScene = draw;
    regl.clear(CLEAR);
    drawFrom(0, newView === view ? size : part); // a new colour or selection in one frame, without a gap
    [view, isChanged] = [newView, false];
  }

  return Object.create(base, {
    regl: { value: regl },
    render: { value: render },
    change: { value: () => { isChanged = true; } }, // the next picture differs, though the view may not
    hold: { value: (isOn) => { isHeld = isOn; } }, // so do all until it is off again
  });
}
