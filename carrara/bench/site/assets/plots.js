"use strict";
// Plots as SVG. Colours are classes of site.css, so that they follow light and dark.

function shape(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) if (value !== null && value !== undefined) node.setAttribute(key, value);
  node.append(...children.flat());
  return node;
}

function drawing(width, height, label, ...children) {
  return shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label }, ...children);
}

function plotWidth() {
  return Math.max(300, Math.min(900, document.getElementById("main").clientWidth - 24));
}

// Round numbers that cover a range, at most about `count` of them.
function ticks(low, high, count) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) values.push(Number(value.toPrecision(10)));
  return values;
}

function extent(values, margin) {
  const low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low || Math.abs(high) || 1) * margin;
  return [low - pad, high + pad];
}

// Cuts a text to a width, by the average width of a character.
function shorten(text, width) {
  const count = Math.max(4, Math.floor(width / 6.6));
  return text.length > count ? text.slice(0, count - 1) + "…" : text;
}

function valueAxis(x, values, top, bottom) {
  return values.flatMap((value) => [
    shape("line", { class: value === 0 ? "zero" : "rule", x1: x(value), x2: x(value), y1: top, y2: bottom }),
    shape("text", { class: "soft", x: x(value), y: bottom + 14, "text-anchor": "middle" }, String(value)),
  ]);
}

// Lines of {label, href, value, low, high, className, marks: [value]}: a dot with its interval, or a bar.
function intervalPlot(lines, label, options) {
  const { bars = false, lineHeight = 22, from } = options || {};
  const width = plotWidth(), left = Math.min(230, width * 0.38), right = 14, top = 4;
  const bottom = top + lines.length * lineHeight;
  const values = lines.flatMap((line) => [line.value, line.low, line.high, ...(line.marks || [])]).filter((value) => value !== null && value !== undefined);
  if (!values.length) return element("p", { class: "soft" }, "Nothing to draw.");
  let [low, high] = extent(bars || from === 0 ? [0, ...values] : values, 0.03);
  if (bars && Math.min(...values) >= 0) low = 0;
  low = Math.max(low, -100);
  const x = (value) => left + ((Math.max(value, low) - low) / (high - low)) * (width - left - right);
  const rows = lines.map((line, index) => {
    const y = top + index * lineHeight, middle = y + lineHeight / 2;
    const name = shape("text", { x: left - 8, y: middle + 4, "text-anchor": "end", class: line.className === "other" ? "soft" : line.strong ? "strong" : null }, shorten(line.label, left - 12));
    const parts = [shape("title", {}, line.title || line.label), line.href ? shape("a", { href: line.href }, name) : name];
    if (line.value === null || line.value === undefined) return shape("g", {}, ...parts);
    const start = x(Math.max(0, low));
    if (bars) parts.push(shape("rect", { class: line.className || "bar", x: Math.min(start, x(line.value)), y: y + 4, width: Math.abs(x(line.value) - start), height: lineHeight - 8, rx: 2 }));
    if (line.low !== undefined && line.low !== null) parts.push(shape("line", { class: "whisker " + (bars ? "" : line.className || ""), x1: x(line.low), x2: x(line.high), y1: middle, y2: middle }));
    if (!bars) parts.push(shape("circle", { class: line.className || "dot", cx: x(line.value), cy: middle, r: 4 }));
    for (const value of line.marks || []) if (value !== null) parts.push(shape("line", { class: "mark", x1: x(value), x2: x(value), y1: y + 2, y2: y + lineHeight - 2 }));
    return shape("g", {}, ...parts);
  });
  return drawing(width, bottom + 20, label, ...valueAxis(x, ticks(low, high, width < 500 ? 4 : 8), top, bottom), ...rows);
}

// The score of each layer: a line through the numbered ones, hollow dots for combinations such as a weighted sum.
function layerPlot(layers, chosen, label) {
  const width = 270, height = 120, left = 34, right = 10, top = 8, bottom = 96;
  const points = layers.filter(([, score]) => score !== null);
  if (!points.length) return element("p", { class: "soft" }, "No layers were searched.");
  const [low, high] = extent(points.map(([, score]) => score), 0.1);
  const x = (index) => left + (points.length < 2 ? 0.5 : index / (points.length - 1)) * (width - left - right);
  const y = (score) => bottom - ((score - low) / (high - low)) * (bottom - top);
  const numbered = points.map(([name, score], index) => [name, score, index]).filter(([name]) => /^\d+$/.test(name));
  const grid = ticks(low, high, 3).flatMap((value) => [
    shape("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
    shape("text", { class: "soft", x: left - 5, y: y(value) + 4, "text-anchor": "end" }, String(value)),
  ]);
  const line = numbered.length > 1 ? [shape("polyline", { class: "line", points: numbered.map(([, score, index]) => x(index) + "," + y(score)).join(" ") })] : [];
  const every = Math.ceil(points.length / 9);
  const dots = points.flatMap(([name, score], index) => [
    shape("circle", { class: String(name) === String(chosen) ? "bar" : /^\d+$/.test(name) ? "dot" : "hollow", cx: x(index), cy: y(score), r: String(name) === String(chosen) ? 5.5 : 2.6 }, shape("title", {}, `layer ${name}: ${score.toFixed(1)}`)),
    ...(index % every === 0 ? [shape("text", { class: "soft", x: x(index), y: height - 8, "text-anchor": "middle" }, name.length > 3 ? "Σ" : name)] : []),
  ]);
  return drawing(width, height, label, ...grid, ...line, ...dots);
}

// Points of {x, y, label, href, title} on a logarithmic x axis; `tell` gets the title of the point in focus.
function scatterPlot(points, xName, yName, formatX, tell) {
  const width = plotWidth(), height = Math.max(300, width * 0.5), left = 44, right = 16, top = 12, bottom = height - 44;
  const [low, high] = extent(points.map((point) => Math.log10(point.x)), 0.06);
  const [yLow, yHigh] = extent(points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]), 0.08);
  const x = (value) => left + ((Math.log10(value) - low) / (high - low)) * (width - left - right);
  const y = (value) => bottom - ((value - yLow) / (yHigh - yLow)) * (bottom - top);
  const powers = [];
  for (let power = Math.floor(low); power <= high; power++) for (const factor of high - low > 2.5 ? [1] : [1, 2, 5]) if (Math.log10(factor) + power >= low && Math.log10(factor) + power <= high) powers.push(factor * 10 ** power);
  const grid = [
    ...powers.flatMap((value) => [
      shape("line", { class: "rule", x1: x(value), x2: x(value), y1: top, y2: bottom }),
      shape("text", { class: "soft", x: x(value), y: bottom + 16, "text-anchor": "middle" }, formatX(value)),
    ]),
    ...ticks(yLow, yHigh, 6).flatMap((value) => [
      shape("line", { class: "rule", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      shape("text", { class: "soft", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)),
    ]),
    shape("text", { class: "soft", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xName),
    shape("text", { class: "soft", x: left, y: top - 2 }, yName),
  ];
  const taken = [];
  const dots = points.map((point) => {
    const at = [x(point.x), y(point.y)];
    const size = 6.6 * point.label.length;
    const flip = at[0] + size + 10 > width;
    const box = [flip ? at[0] - size - 9 : at[0] + 9, at[1] - 7, size, 14];
    const free = !taken.some((each) => box[0] < each[0] + each[2] && each[0] < box[0] + box[2] && Math.abs(box[1] - each[1]) < 14);
    if (free) taken.push(box);
    const link = shape("a", { href: point.href, "aria-label": point.title },
      ...(point.low === undefined ? [] : [shape("line", { class: "undecided", x1: at[0], x2: at[0], y1: y(point.low), y2: y(point.high) })]),
      shape("circle", { class: "dot", cx: at[0], cy: at[1], r: 5.5 }, shape("title", {}, point.title)),
      ...(free ? [shape("text", { class: "soft", x: flip ? at[0] - 9 : at[0] + 9, y: at[1] + 4, "text-anchor": flip ? "end" : "start" }, point.label)] : []));
    for (const kind of ["mouseenter", "focus"]) link.addEventListener(kind, () => tell(point.title));
    return link;
  });
  return drawing(width, height, `${yName} against ${xName}`, ...grid, ...dots);
}
