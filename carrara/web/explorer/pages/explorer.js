// The explorer: a map of recordings, sound, neighbours, search, labels and a probe. Text becomes text nodes, never HTML.
import { createScatterplot } from "/vendor/regl-scatterplot.min.js";
import { createMapRenderer } from "/static/renderer.js";
import { WaveSurfer, Spectrogram } from "/vendor/wavesurfer.min.js";

const CATEGORIES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7fd6", "#7a8b2a", "#b05a7a", "#3f8f8f"];
const RAMP = ["#2c3e8f", "#3569ab", "#3b90b5", "#4cb3a8", "#7fcb8c", "#c2da6c", "#f4e04d"];
const NONE = "#9aa1a9";
const HOVER_DELAY = 60; // ms
const MAX_LABEL = 60; // letters
const byId = (id) => document.getElementById(id);
const state = { info: null, points: null, codes: null, chosen: null, hovered: null, marked: null, selected: [], labels: new Map(), pathStart: null, outline: null };
const hoverSound = new Audio(), chosenSound = new Audio();
let plot, renderer, wave, spectrogram, hoverTimer, request = 0, drawing = Promise.resolve();

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

async function call(address, options) {
  const answer = await fetch(address, options);
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.error || "The server answered " + answer.status + ".");
}

const getJson = async (address, options) => (await call(address, options)).json();
const getFloats = async (address) => new Float32Array(await (await call(address)).arrayBuffer());
const layerName = () => state.info.layers[Number(byId("layer").value)];
const chosenLabel = () => state.info.labels.find((each) => each.name === byId("colour").value);
const showState = (text, isError) => {
  byId("state").textContent = text;
  byId("state").classList.toggle("error", Boolean(isError));
};

function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

async function start() {
  try {
    state.info = await getJson("/api/info");
    const { title, count, layers, labels, text, files } = state.info;
    byId("title").textContent = title + ": " + count.toLocaleString("en") + " recordings";
    document.title = title + " · Carrara";
    byId("layer").max = layers.length - 1;
    byId("layer").value = layers.length - 1;
    byId("layer-control").hidden = layers.length < 2;
    byId("text-control").hidden = !text;
    byId("file-control").hidden = !files;
    byId("colour").append(element("option", { value: "" }, "none"), ...labels.map((each) => element("option", { value: each.name }, each.name)));
    if (labels.length) byId("colour").value = labels[0].name;
    byId("layer-name").textContent = layerName();
    drawLegend(chosenLabel());
    byId("opening").remove();
    byId("content").hidden = false; // all at once, so that nothing moves
    createPlot(count);
    await loadLabel(); // first: points are drawn in its colours
    await loadPoints();
  } catch (problem) {
    showState(problem.message, true);
    if (!byId("opening")) return;
    byId("opening").textContent = problem.message;
    byId("opening").classList.add("error");
  }
}

function createPlot(count) {
  const { width, height } = byId("frame").getBoundingClientRect();
  renderer = createMapRenderer(byId("points"), count, () => plot.get("cameraView"));
  renderer.resize(width, height);
  plot = createScatterplot({
    canvas: byId("map"), renderer, width, height, pointSize: count > 20000 ? 2.5 : count > 2000 ? 4 : 7, opacity: count > 20000 ? 0.6 : 0.9,
    pointSizeSelected: 3, pointOutlineWidth: 2, backgroundColor: cssColour("--card"), pointColorActive: cssColour("--accent"),
    showReticle: false, pointOrder: count > 2000 ? shuffle(count) : null,
  });
  plot.subscribe("pointOver", (row) => hover(row, true));
  plot.subscribe("pointOut", () => { clearTimeout(hoverTimer); hoverSound.pause(); state.marked = null; drawMarks(); });
  plot.subscribe("select", ({ points }) => { renderer.change(); selectPoints(points); });
  plot.subscribe("deselect", () => { renderer.change(); selectPoints([]); });
  plot.subscribe("lassoStart", () => { state.outline = []; });
  plot.subscribe("lassoEnd", () => { state.outline = null; setLasso(false); drawMarks(); });
  plot.subscribe("view", drawMarks);
  new ResizeObserver(async () => {
    const size = byId("frame").getBoundingClientRect();
    renderer.resize(size.width, size.height);
    await setPlot({ width: size.width, height: size.height });
    drawMarks();
  }).observe(byId("frame"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    setPlot({ backgroundColor: cssColour("--card"), pointColorActive: cssColour("--accent") });
    drawMarks();
    wave?.setOptions({ waveColor: cssColour("--other"), progressColor: cssColour("--bar"), cursorColor: cssColour("--ink") });
  });
}

async function setPlot(settings) {
  renderer.change();
  await plot.set(settings); // it may have drawn in the meantime, and draws after this
  renderer.change();
}

function selectOnMap(rows, options) {
  renderer.change();
  plot.select(rows, options);
}

// Numbers below count in random order: of points drawn in part, the first are a sample.
function shuffle(count) {
  const order = Array.from({ length: count }, (_, index) => index);
  for (let index = count - 1; index > 0; index--) {
    const other = Math.floor(Math.random() * (index + 1));
    [order[index], order[other]] = [order[other], order[index]];
  }
  return order;
}

// Rings around the chosen recording and the one under the pointer, and the line that is being drawn around points.
function drawMarks() {
  const canvas = byId("map"), context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.scale(devicePixelRatio, devicePixelRatio);
  for (const [row, colour] of [[state.chosen, "--accent"], [state.marked, "--ink"]]) {
    if (row === null || !state.points) continue;
    const [x, y] = plot.getScreenPosition(row);
    context.strokeStyle = cssColour(colour);
    context.lineWidth = 2.5;
    context.beginPath();
    context.arc(x, y, 7, 0, 2 * Math.PI);
    context.stroke();
  }
  if (!state.outline) return;
  context.strokeStyle = cssColour("--accent");
  context.lineWidth = 2;
  context.beginPath();
  for (const [x, y] of state.outline) context.lineTo(x, y);
  context.stroke();
}

function mark(row) {
  state.marked = row;
  drawMarks();
}

async function loadPoints() {
  const own = ++request;
  const layer = layerName();
  byId("layer-name").textContent = layer;
  if (!state.points) showState("Loading the map …");
  const points = await getFloats("/api/points?" + new URLSearchParams({ layer, method: byId("method").value }));
  if (own !== request) return; // a later one is on its way
  state.points = points;
  await draw();
  if (state.chosen !== null) await showNeighbours(state.chosen);
}

async function loadLabel() {
  const name = byId("colour").value;
  state.codes = name ? await getFloats("/api/label?" + new URLSearchParams({ name })) : null;
  drawLegend(chosenLabel());
}

// One drawing after another: regl-scatterplot ignores points that come while it draws others.
function draw() {
  drawing = drawing.catch(() => {}).then(drawPoints);
  return drawing;
}

async function drawPoints() {
  if (!state.points) return;
  const count = state.info.count;
  const facts = chosenLabel();
  const x = new Float32Array(count), y = new Float32Array(count), category = new Float32Array(count);
  const colours = !facts ? [cssColour("--bar")] : facts.numeric ? [...RAMP, NONE] : [...CATEGORIES, NONE];
  for (let row = 0; row < count; row++) {
    x[row] = state.points[2 * row];
    y[row] = state.points[2 * row + 1];
    const code = state.codes ? state.codes[row] : 0;
    if (Number.isNaN(code)) category[row] = colours.length - 1;
    else if (facts && facts.numeric) category[row] = rampIndex(code, facts.range);
    else category[row] = facts ? Math.min(code, colours.length - 1) : 0;
  }
  await setPlot({ colorBy: facts ? "valueA" : null, pointColor: facts ? colours : colours[0] });
  renderer.hold(true);
  await plot.draw({ x, y, valueA: category }, { zDataType: "categorical" });
  renderer.hold(false);
  drawMarks();
  showState("");
}

const rampIndex = (value, [low, high]) => Math.min(RAMP.length - 1, Math.floor(((value - low) / (high - low || 1)) * RAMP.length));

function drawLegend(facts) {
  const entry = (colour, text) => element("span", {}, element("i", { style: "background:" + colour }), text);
  const legend = byId("legend");
  legend.replaceChildren();
  if (!facts) return;
  if (facts.numeric) {
    const [low, high] = facts.range;
    const step = (high - low) / RAMP.length;
    legend.append(...RAMP.map((colour, index) => entry(colour, (low + index * step).toPrecision(3))));
    return;
  }
  legend.append(...facts.values.slice(0, CATEGORIES.length).map((value, index) => entry(CATEGORIES[index], value + " (" + facts.counts[index] + ")")));
  if (facts.values.length > CATEGORIES.length) legend.append(entry(NONE, "others and none"));
}

function hover(row, isPointer) {
  state.hovered = row;
  mark(row);
  clearTimeout(hoverTimer);
  hoverTimer = setTimeout(async () => {
    const facts = await getJson("/api/recording/" + row);
    if (state.hovered !== row) return;
    byId("hovered").textContent = facts.name + describeLabels(facts.labels) + (facts.audio ? "" : " · the audio has moved");
  }, HOVER_DELAY);
  if (byId("hover-sound").checked && isPointer && chosenSound.paused) {
    hoverSound.src = "/audio/" + row;
    hoverSound.play().catch(() => {}); // no sound before the first click, by the browser's rule; or the file has moved
  }
}

function describeLabels(labels) {
  return Object.entries(labels).slice(0, 6).map(([name, value]) => {
    const text = Array.isArray(value) ? value.join(", ") : String(value);
    return " · " + name + ": " + (text.length > MAX_LABEL ? text.slice(0, MAX_LABEL) + " …" : text); // beats are many
  }).join("");
}

function selectPoints(rows) {
  if (rows.length === 1 && rows[0] !== state.chosen) choose(rows[0], true);
  state.selected = rows;
  byId("selection").textContent = rows.length ? rows.length.toLocaleString("en") + " selected." : "Draw around points (Shift and drag, or the button) to select them.";
  byId("apply").disabled = !rows.length;
}

async function choose(row, isPlayed) {
  state.chosen = row;
  const playing = loadSound(row, isPlayed);
  const facts = await getJson("/api/recording/" + row);
  byId("name").textContent = facts.name;
  byId("facts").textContent = facts.path + describeLabels(facts.labels);
  byId("moved").hidden = facts.audio;
  byId("moved").textContent = facts.audio ? "" : "The audio has moved. Start again with --audio FOLDER.";
  for (const id of ["play", "show-spectrogram"]) byId(id).disabled = !facts.audio;
  for (const id of ["path-start", "select-chosen"]) byId(id).disabled = false;
  drawMarks();
  const showing = state.pathStart === null ? showNeighbours(row) : showPath(state.pathStart, row);
  if (facts.audio) playing.then(() => { if (row === state.chosen) loadWave(row); });
  else {
    wave?.destroy();
    wave = null;
  }
  await showing;
}

// Plays at once, from the first bytes; what is heard under the pointer goes on until then. Resolves when it plays: the
// waveform, for which the whole file is loaded and decoded, has to wait for that.
function loadSound(row, isPlayed) {
  chosenSound.src = new URL("/audio/" + row, location.href).href;
  if (!isPlayed) hoverSound.pause();
  return new Promise((done) => {
    if (!isPlayed) return done();
    chosenSound.addEventListener("playing", done, { once: true });
    chosenSound.play().catch((problem) => { failSound(problem, row); done(); });
  });
}

function failSound(problem, row) {
  hoverSound.pause();
  if (["AbortError", "NotAllowedError"].includes(problem.name) || row !== state.chosen || !byId("moved").hidden) return;
  byId("moved").hidden = false;
  byId("moved").textContent = "This browser cannot play the file.";
}

function playOrPause() {
  if (state.chosen === null) return;
  if (chosenSound.paused) chosenSound.play().catch((problem) => failSound(problem, state.chosen));
  else chosenSound.pause();
}

function loadWave(row) {
  if (!wave) {
    wave = WaveSurfer.create({
      container: byId("wave"), media: chosenSound, height: 64, waveColor: cssColour("--other"), progressColor: cssColour("--bar"),
      cursorColor: cssColour("--ink"), dragToSeek: true,
    });
  }
  wave.load(chosenSound.src).catch((problem) => failSound(problem, row));
}

function listRecordings(target, items, detail) {
  target.replaceChildren(...items.map((item) => element("li", {}, element("button", {
    type: "button", onclick: () => choose(item.row, true), onmouseenter: () => hover(item.row, true), onmouseleave: () => hoverSound.pause(),
    onfocus: () => mark(item.row),
  }, element("span", {}, item.name), element("small", {}, detail(item))))));
  if (!items.length) target.append(element("li", { class: "soft" }, "Nothing to show."));
}

async function showList(title, address, options) {
  try {
    byId("list-title").textContent = title;
    const answer = await getJson(address, options);
    const items = answer.recordings || answer;
    listRecordings(byId("list"), items, (item) => item.similarity.toFixed(3));
    byId("list").prepend(...(answer.warnings || []).map((text) => element("li", { class: "error" }, "Warning: " + text)));
    return items;
  } catch (problem) {
    byId("list").replaceChildren(element("li", { class: "error" }, problem.message));
    return [];
  }
}

const showNeighbours = (row) => showList("Nearest by sound", "/api/neighbours?" + new URLSearchParams({ row, layer: layerName() }));

async function showPath(first, last) {
  state.pathStart = null;
  byId("path-start").textContent = "Path from here";
  const items = await showList("Path between two recordings", "/api/path?" + new URLSearchParams({ first, last, layer: layerName() }));
  if (items.length) selectOnMap(items.map((item) => item.row), { preventEvent: true });
}

async function searchFile(file) {
  if (!file) return;
  const form = new FormData();
  form.append("file", file);
  byId("list").replaceChildren(element("li", { class: "soft" }, "Embedding " + file.name + " …"));
  const items = await showList("Most similar to " + file.name, "/api/search?" + new URLSearchParams({ layer: layerName() }), { method: "POST", body: form });
  if (items.length) selectOnMap(items.map((item) => item.row), { preventEvent: true });
}

function setLasso(isOn) {
  byId("lasso").setAttribute("aria-pressed", String(isOn));
  setPlot({ mouseMode: isOn ? "lasso" : "panZoom" });
}

function applyLabel(event) {
  event.preventDefault();
  const label = byId("label").value.trim();
  if (!label || !state.selected.length) return;
  for (const row of state.selected) state.labels.set(row, label);
  const counts = new Map();
  for (const value of state.labels.values()) counts.set(value, (counts.get(value) || 0) + 1);
  byId("labelled").textContent = [...counts].map(([name, count]) => name + ": " + count).join(", ");
  byId("train").disabled = counts.size < 2;
  byId("save").disabled = false;
  byId("label").value = "";
  plot.deselect();
}

const givenLabels = () => ({
  method: "POST", headers: { "content-type": "application/json" },
  body: JSON.stringify({ layer: layerName(), labels: Object.fromEntries(state.labels) }),
});

async function trainProbe() {
  byId("probe-state").textContent = "Training …";
  try {
    const { classes, accuracy, folds, certain, uncertain } = await getJson("/api/probe", givenLabels());
    const measured = accuracy === null ? "too few labels to measure it" : (100 * accuracy).toFixed(0) + " % right on held-out labels (" + folds + " folds)";
    byId("probe-state").textContent = "Logistic regression of " + classes.join(", ") + ": " + measured + ".";
    const list = (title, items) => {
      const target = element("ol", { class: "list" });
      listRecordings(target, items, (item) => item.label + " " + item.probability.toFixed(2));
      return [element("h3", {}, title), target];
    };
    byId("probe").replaceChildren(...list("Most certain", certain), ...list("Least certain", uncertain));
  } catch (problem) {
    byId("probe-state").textContent = problem.message;
  }
}

async function saveLabels() {
  const blob = await (await call("/api/labels.csv", givenLabels())).blob();
  const link = element("a", { href: URL.createObjectURL(blob), download: "labels.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Goes from the hovered point to the nearest one in a direction: distance counts, and more so across the direction.
function moveTo(dx, dy) {
  const from = state.hovered ?? state.chosen ?? 0;
  let best = null, least = Infinity;
  for (let row = 0; row < state.info.count; row++) {
    const x = state.points[2 * row] - state.points[2 * from], y = state.points[2 * row + 1] - state.points[2 * from + 1];
    const along = x * dx + y * dy, across = Math.abs(x * dy - y * dx);
    const cost = along + 2 * across;
    if (along > 1e-6 && across <= along && cost < least) [best, least] = [row, cost];
  }
  if (best === null) return;
  hover(best, true);
}

function handleKey(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  if (!state.points) return;
  if (moves[event.key]) moveTo(...moves[event.key]);
  else if (event.key === "Enter") choose(state.hovered ?? 0, true);
  else if (event.key === " ") playOrPause();
  else return;
  event.preventDefault();
}

const guarded = (work) => () => work().catch((problem) => showState(problem.message, true));
byId("colour").addEventListener("change", guarded(async () => { await loadLabel(); await draw(); }));
byId("layer").addEventListener("input", guarded(loadPoints));
byId("method").addEventListener("change", guarded(async () => { showState("Computing the map …"); await loadPoints(); }));
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("text").addEventListener("change", () => {
  const text = byId("text").value.trim();
  if (text) showList("Nearest to “" + text + "”", "/api/text?" + new URLSearchParams({ text }));
});
byId("file").addEventListener("change", () => searchFile(byId("file").files[0]));
byId("map").addEventListener("keydown", handleKey);
byId("map").addEventListener("pointermove", (event) => {
  if (!state.outline) return;
  state.outline.push([event.offsetX, event.offsetY]);
  drawMarks();
});
chosenSound.addEventListener("playing", () => hoverSound.pause());
for (const event of ["play", "pause", "ended"]) {
  chosenSound.addEventListener(event, () => { byId("play").textContent = chosenSound.paused || chosenSound.ended ? "Play" : "Pause"; });
}
byId("play").addEventListener("click", playOrPause);
byId("show-spectrogram").addEventListener("click", () => {
  spectrogram?.destroy();
  spectrogram = wave.registerPlugin(Spectrogram.create({ container: byId("spectrogram"), height: 128, labels: true, scale: "mel" }));
});
byId("path-start").addEventListener("click", () => {
  state.pathStart = state.chosen;
  byId("path-start").textContent = "Now choose the end";
});
byId("select-chosen").addEventListener("click", () => selectOnMap([...new Set([...state.selected, state.chosen])]));
byId("lasso").addEventListener("click", () => setLasso(byId("lasso").getAttribute("aria-pressed") !== "true"));
byId("label-form").addEventListener("submit", applyLabel);
byId("train").addEventListener("click", trainProbe);
byId("save").addEventListener("click", () => saveLabels().catch((problem) => { byId("probe-state").textContent = problem.message; }));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (state.info.files) searchFile(event.dataTransfer.files[0]);
});
start();
