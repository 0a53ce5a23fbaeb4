"use strict";
// Addresses, data and elements that every page uses. Text from records becomes text nodes and attributes, never HTML.

const loadedData = {};
const pageRenderers = {};

// Called by every file below data/.
function carraraData(name, value) {
  loadedData[name] = value;
}

// Calls back with the value of data/NAME.js, or with null where there is none.
function loadData(name, done) {
  if (name in loadedData) return done(loadedData[name]);
  const script = document.createElement("script");
  script.src = "data/" + name.split("/").map(encodeURIComponent).join("/") + ".js";
  script.onload = () => done(name in loadedData ? loadedData[name] : null);
  script.onerror = () => done(null);
  document.head.append(script);
}

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function formatScore(value) {
  return value === null || value === undefined ? "–" : value.toFixed(1);
}

function formatInterval(interval) {
  return interval[1].toFixed(1) + " to " + interval[2].toFixed(1);
}

function formatCount(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e9) return (value / 1e9).toFixed(1) + " B";
  if (value >= 999500) return (value / 1e6).toFixed(value < 1e7 ? 1 : 0) + " M";
  return value >= 1e4 ? Math.round(value / 1e3) + " k" : String(Math.round(value));
}

function formatSeconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 5400) return (value / 3600).toFixed(1) + " h";
  return value >= 90 ? (value / 60).toFixed(1) + " min" : value.toFixed(1) + " s";
}

function formatHours(hours) {
  if (!hours) return "–";
  const [low, high] = hours.map((value) => value.toLocaleString("en"));
  return low === high ? low + " h" : low + " to " + high + " h";
}

// The address is #/page/argument?key=value&…
function readAddress() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/").map(decodeURIComponent);
  return { page: page || "", rest, query: new URLSearchParams(query || "") };
}

function writeAddress(page, query) {
  for (const [key, value] of [...query]) if (value === "") query.delete(key);
  const text = query.toString();
  history.replaceState(null, "", "#/" + page + (text ? "?" + text : ""));
}

function address(page, argument, query) {
  const text = new URLSearchParams(query || {}).toString();
  return "#/" + page + (argument === undefined ? "" : "/" + encodeURIComponent(argument)) + (text ? "?" + text : "");
}

function siteData() {
  return loadedData.leaderboard;
}

// The leaderboard that the address names, else the first.
function chosenBoard(query) {
  const boards = siteData().boards;
  return boards.find((board) => board.id === query.get("board")) || boards[0];
}

function recordAddress(system, board, task) {
  return ["records", system.slug, board.id, task.slug + ".json"].map(encodeURIComponent).join("/");
}

function boardSelect(board, change) {
  const options = siteData().boards.map((each) => element("option", { value: each.id, selected: each === board }, each.title));
  return labelled("Suite and protocol", element("select", { id: "board", onchange: (event) => change(event.target.value) }, options));
}

function labelled(text, control, className) {
  return element("label", { class: className }, text, control);
}

function choice(id, options, value, change) {
  const items = options.map(([key, text]) => element("option", { value: key, selected: key === value }, text));
  return element("select", { id, onchange: (event) => change(event.target.value) }, items);
}

function markWords(marks) {
  const words = { "†": "in-domain: trained on this dataset", "*": "partial: fewer clips than the task has", "§": "took longer than the time limit" };
  return [...(marks || "")].map((mark) => words[mark]).filter(Boolean).join("; ");
}

function showMessage(text, isError) {
  document.getElementById("main").replaceChildren(element("p", { class: isError ? "state error" : "state", role: isError ? "alert" : "status" }, text));
}

// Shows a page once the data that only it needs are loaded, in one piece, so that nothing moves; `render` takes the data.
function showWhenLoaded(name, render) {
  const hash = location.hash;
  if (!(name in loadedData)) showMessage("Loading…", false);
  loadData(name, (data) => { if (location.hash === hash) showNodes(render(data)); });
}

function showNodes(nodes) {
  document.getElementById("main").replaceChildren(...nodes);
  const heading = document.querySelector("main h1");
  document.title = heading ? heading.textContent : "Leaderboard";
}

function showPage() {
  const { page, rest, query } = readAddress();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const render = pageRenderers[page];
  if (!render) return showMessage("There is no such page. Choose one above.", true);
  const nodes = render(rest, query);
  if (nodes) showNodes(nodes);
}

function startPages() {
  const data = siteData();
  if (!data) return showMessage("data/leaderboard.js is missing or damaged. Write the site again: carrara leaderboard results --site DIR", true);
  if (!data.boards.length) return showMessage("No records yet. carrara bench ENCODER writes some.", false);
  document.getElementById("footer").replaceChildren(
    "Written " + data.written + " by carrara " + data.version + ". The numbers: ",
    element("a", { href: "data/leaderboard.json" }, "leaderboard.json"),
  );
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
  window.addEventListener("hashchange", () => {
    showPage();
    window.scrollTo(0, 0);
    document.getElementById("main").focus({ preventScroll: true });
  });
  showPage();
}
