"use strict";
// The comparison of two systems on the same test clips, and the plots of quality against cost.

pageRenderers.compare = (rest, query) => {
  const board = chosenBoard(query);
  const systems = siteData().systems;
  const names = board.entries.map((entry) => systems[entry.system].name);
  const first = names.includes(query.get("a")) ? query.get("a") : names[0];
  const second = names.includes(query.get("b")) && query.get("b") !== first ? query.get("b") : names.find((name) => name !== first);
  const go = (changes) => { location.hash = address("compare", undefined, { board: board.id, a: first, b: second || "", ...changes }); };
  const options = names.map((name) => [name, name]);
  const controls = element("div", { class: "controls" }, boardSelect(board, (id) => { location.hash = address("compare", undefined, { board: id }); }),
    labelled("First system", choice("first", options, first, (value) => go(value === second ? { a: value, b: first } : { a: value }))),
    labelled("Second system", choice("second", options, second, (value) => go(value === first ? { a: second, b: value } : { b: value }))));
  const head = [element("h1", {}, second ? `${first} against ${second}` : "Compare"), element("p", { class: "soft" }, board.title + ". Paired bootstrap over the test clips: first minus second, with 95 % intervals; p after Holm's correction over the tasks. Undecided is not equal."), controls];
  if (!second) return [...head, element("p", { class: "state" }, "A comparison needs two systems; this leaderboard has one.")];
  const holder = element("div", {}, element("p", { class: "state" }, "Loading…"));
  const entries = [first, second].map((name) => board.entries.find((entry) => systems[entry.system].name === name));
  const show = (data, sign) => holder.replaceChildren(...comparison(data, sign, board, first, second, entries));
  const slug = (name) => systems.find((system) => system.name === name).slug;
  // A pair is stored once, with the system that is higher on the leaderboard.
  loadData(`compare/${board.id}/${slug(first)}`, (own) => (own && own[second] ? show(own[second], 1)
    : loadData(`compare/${board.id}/${slug(second)}`, (other) => show(other && other[first], -1))));
  return [...head, holder];
};

function comparison(data, sign, board, first, second, entries) {
  if (!data) return [element("p", { class: "state" }, "This pair was not compared: the site has the pairs of the 50 best systems of each task. The command compares any two: ", element("code", {}, `carrara compare ${first} ${second}`))];
  const swap = { better: "worse", worse: "better", undecided: "undecided" };
  const tasks = data.tasks.map((each) => (sign > 0 ? each : { ...each, first: each.second, second: each.first, difference: [-each.difference[0], -each.difference[2], -each.difference[1]], verdict: swap[each.verdict] }));
  const nodes = [];
  if (tasks.length) {
    const count = (verdict) => tasks.filter((each) => each.verdict === verdict).length;
    nodes.push(element("p", { id: "verdict" }, `${first} is better on ${count("better")}, worse on ${count("worse")} and undecided on ${count("undecided")} of ${tasks.length} tasks.`));
    nodes.push(element("div", { class: "plot" }, intervalPlot(tasks.map((each) => ({ label: each.task, href: address("task", each.task, { board: board.id }), title: `${each.task}: ${each.difference[0].toFixed(1)}, ${each.verdict}`, value: each.difference[0], low: each.difference[1], high: each.difference[2], className: each.verdict })), "Differences by task", { from: 0 })));
    const number = (value) => (value >= 0 ? "+" : "") + value.toFixed(1);
    nodes.push(element("h2", {}, "Numbers"), scrollTable(["task", first, second, "difference", "95 % interval", "p (Holm)", first + " is", "units"], tasks.map((each) => {
      const task = board.tasks.find((other) => other.name === each.task);
      const cells = [each.first, each.second].map((value, at) => element("a", { href: recordAddress(siteData().systems[entries[at].system], board, task) }, formatScore(value)));
      return [each.task + (task.unit === "dB" ? " (dB)" : ""), ...cells, number(each.difference[0]), number(each.difference[1]) + " to " + number(each.difference[2]), each.p < 0.001 ? "< 0.001" : each.p.toFixed(3), each.verdict, each.n.toLocaleString("en")];
    }), "Differences by task"));
  } else nodes.push(element("p", { class: "state" }, "No task can be compared."));
  if (data.not_comparable.length) nodes.push(element("h2", {}, "Not comparable"), element("ul", { class: "notes" }, [...new Set(data.not_comparable.map((each) => each.reason))].map((reason) => element("li", {}, data.not_comparable.filter((each) => each.reason === reason).map((each) => each.task).join(", ") + ": " + reason))));
  return nodes;
}

const COSTS = {
  parameters: ["parameters", (system) => system.parameters, formatCount],
  seconds: ["time for the ranked tasks", (system, entry) => entry.seconds, formatSeconds],
  hours: ["hours of training audio (the highest that sources state)", (system) => system.training_hours && system.training_hours[1], (value) => value.toLocaleString("en") + " h"],
};

pageRenderers.cost = (rest, query) => {
  const board = chosenBoard(query);
  const by = query.get("by") in COSTS ? query.get("by") : "parameters";
  const task = board.tasks.findIndex((each) => each.name === query.get("task"));
  const go = (changes) => { location.hash = address("cost", undefined, { board: board.id, by, task: task < 0 ? "" : board.tasks[task].name, ...changes }); };
  const [title, cost, format] = COSTS[by];
  const rows = board.entries.map((entry) => ({ entry, system: siteData().systems[entry.system], score: task < 0 ? entry.average : entry.results[task] }));
  const points = rows.filter(({ entry, system, score }) => score && cost(system, entry) > 0).map(({ entry, system, score }) => ({
    x: cost(system, entry), y: score[0], low: score[1], high: score[2], label: system.name, href: address("system", system.name, { board: board.id }), title: `${system.name}: ${formatScore(score[0])} at ${format(cost(system, entry))}`,
  }));
  const without = rows.filter(({ entry, system, score }) => score && !(cost(system, entry) > 0)).map(({ system }) => system.name);
  const tip = element("p", { class: "soft", id: "tip", role: "status" }, "Point at a system, or reach it with the Tab key; Enter opens its page.");
  return [
    element("h1", {}, "Quality against cost"), element("p", { class: "soft" }, board.title + ". Vertical lines are 95 % intervals."),
    element("div", { class: "controls" }, boardSelect(board, (id) => go({ board: id, task: "" })),
      labelled("Cost", choice("by", Object.entries(COSTS).map(([key, [name]]) => [key, name]), by, (value) => go({ by: value }))),
      labelled("Score", choice("task", [["", `average of ${board.ranked.length}`], ...board.tasks.map((each) => [each.name, each.name])], task < 0 ? "" : board.tasks[task].name, (value) => go({ task: value })))),
    points.length ? element("div", { class: "plot" }, scatterPlot(points, title, task < 0 ? "average" : board.tasks[task].name, format, (text) => { tip.textContent = text; })) : element("p", { class: "state" }, "No system here states this cost."),
    tip,
    without.length ? element("p", { class: "soft" }, `Not stated, or none: ${without.join(", ")}.`) : element("p", {}),
  ];
};
