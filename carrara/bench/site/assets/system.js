"use strict";
// The page of a system: its card, its scores beside the best measured and published ones, layers, robustness, cost.

pageRenderers.system = (rest, query) => {
  const systems = siteData().systems;
  const index = systems.findIndex((each) => each.name === rest[0]);
  if (index < 0) return showMessage(`There is no system ${rest[0] || ""} on this site.`, true);
  const system = systems[index];
  const boards = siteData().boards.filter((board) => board.entries.some((entry) => entry.system === index));
  const board = boards.find((each) => each.id === query.get("board")) || boards[0];
  const entry = board.entries.find((each) => each.system === index);
  const links = boards.length > 1 ? [element("p", { class: "legend" }, "Protocols: ", boards.map((each) => element("a", { href: address("system", system.name, { board: each.id }), "aria-current": each === board ? "true" : null }, each.title)))] : [];
  return showWhenLoaded("systems/" + system.slug, (parts) => [
    element("h1", {}, system.name),
    element("p", { class: "soft" }, `${board.title}. Rank ${entry.floor ? "none (floor)" : entry.rank ?? "none"}; average ${entry.average ? `${formatScore(entry.average[0])} (${formatInterval(entry.average)}) over ${board.ranked.length} task${board.ranked.length === 1 ? "" : "s"}` : "none"}. `,
      element("a", { href: address("compare", undefined, { board: board.id, a: system.name }) }, "Compare with another system")),
    ...links,
    element("h2", {}, "Card"), systemCard(system),
    element("h2", {}, "Scores by level"), ...systemScores(system, board, entry, index),
    ...systemDetails(system, board, parts && parts.find((each) => each.board === board.id)),
  ]);
};

function systemCard(system) {
  const facts = {
    Encoder: system.encoder, Weights: element("code", {}, system.weights.slice(0, 16) || "–"), Parameters: formatCount(system.parameters), Network: system.network, Input: system.input,
    "Layers × size": system.num_layers === null ? null : `${system.num_layers} × ${system.dim}`, "Frame rate": system.frame_rate ? system.frame_rate + " Hz" : null, "Pre-training task": system.pretraining_task,
    "Trained on": system.trained_on.join(", "), "Hours of training audio": system.training_hours ? formatHours(system.training_hours) : null, Licence: system.license,
    "Commercial use": { true: "allowed", false: "not allowed" }[String(system.commercial_use)] || "unknown", Paper: system.paper,
    Settings: Object.keys(system.settings || {}).length ? element("details", {}, element("summary", {}, "settings of the encoder"), element("code", {}, JSON.stringify(system.settings))) : null,
  };
  return element("div", { class: "card" }, element("dl", {}, Object.entries(facts).filter(([, value]) => value).flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)])));
}

function systemScores(system, board, entry, index) {
  const lines = [];
  const mean = (values) => (values.length && values.every((value) => value !== null) ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
  const published = board.tasks.map((task, number) => {
    const values = board.published.map((each) => each.results[number]).filter(Boolean).map((result) => result[0]);
    return values.length ? (task.better === "higher" ? Math.max : Math.min)(...values) : null;
  });
  for (const level of [...new Set(board.tasks.map((task) => task.level))]) {
    const members = board.tasks.map((task, number) => number).filter((number) => board.tasks[number].level === level);
    const interval = entry.levels[level];
    if (interval && members.length > 1) lines.push({ label: LEVEL_NAMES[level] + " mean", strong: true, value: interval[0], low: interval[1], high: interval[2], marks: [mean(members.filter((number) => board.averaged.includes(number)).map((number) => published[number]))] });
    for (const number of members) {
      const task = board.tasks[number], result = entry.results[number];
      const others = board.entries.filter((each) => each.system !== index && each.results[number]).map((each) => each.results[number][0]);
      const best = others.length ? (task.better === "higher" ? Math.max : Math.min)(...others) : null;
      const words = result ? `${formatScore(result[0])}${result[3]}, ${formatInterval(result)}` : "no record";
      lines.push({ label: task.name + (task.unit === "dB" ? " (dB)" : ""), href: address("task", task.name, { board: board.id }), title: `${task.name}: ${words}; best other system ${formatScore(best)}; best published ${formatScore(published[number])}`, value: result ? result[0] : null, low: result && result[1], high: result && result[2], className: "bar", marks: [published[number]] });
      if (best !== null) lines.push({ label: "best other", value: best, className: "other" });
    }
  }
  const legend = element("p", { class: "legend" }, element("span", {}, element("i", { class: "own" }), system.name, " with its 95 % interval"), element("span", {}, element("i", { class: "other" }), "best other system here"),
    board.published.length ? element("span", {}, element("i", { class: "published" }), "best published score, not rerun") : null);
  const records = element("p", { class: "soft" }, "Records: ", board.tasks.flatMap((task, number) => (entry.results[number] ? [element("a", { href: recordAddress(system, board, task) }, task.name), " "] : [])));
  return [legend, element("div", { class: "plot" }, intervalPlot(lines, "Scores of " + system.name, { bars: true, lineHeight: 19 })), records];
}

function systemDetails(system, board, part) {
  if (!part) return [element("p", { class: "state error", role: "alert" }, `data/systems/${system.slug}.js is missing or damaged; write the site again.`)];
  const tasks = part.tasks;
  const present = board.tasks.filter((task) => tasks[task.name]);
  const layered = present.filter((task) => tasks[task.name].layers.length > 1);
  const corruptions = [...new Set(present.flatMap((task) => Object.keys(tasks[task.name].robustness)))];
  const phases = [...new Set(present.flatMap((task) => Object.keys(tasks[task.name].seconds)))];
  const nodes = [element("h2", {}, "Layer by layer")];
  nodes.push(layered.length
    ? element("div", { class: "grid" }, layered.map((task) => { const each = tasks[task.name]; return element("div", { class: "card" }, element("h3", {}, task.name), element("p", { class: "soft" }, `${each.monitor}; chosen: ${each.chosen.layer ?? "–"}`), layerPlot(each.layers, each.chosen.layer, `Layers of ${system.name} on ${task.name}`)); }))
    : element("p", { class: "soft" }, "No record searched several layers."));
  nodes.push(element("h2", {}, "Robustness"));
  nodes.push(corruptions.length
    ? scrollTable(["task", "clean", ...corruptions], present.filter((task) => Object.keys(tasks[task.name].robustness).length).map((task) => {
      const clean = board.entries.find((entry) => siteData().systems[entry.system] === system).results[board.tasks.indexOf(task)][0];
      return [task.name, formatScore(clean), ...corruptions.map((name) => { const value = tasks[task.name].robustness[name]; return value === undefined || value === null ? "–" : `${formatScore(value)} (${(value - clean >= 0 ? "+" : "") + (value - clean).toFixed(1)})`; })];
    }), "Scores on corrupted test audio")
    : element("p", { class: "soft" }, "No record has scores on corrupted audio; carrara bench --corrupt measures them."));
  nodes.push(element("h2", {}, "Cost"));
  nodes.push(scrollTable(["task", "probes", ...phases, "device", "date"], present.map((task) => { const each = tasks[task.name]; return [task.name, String(each.tried), ...phases.map((phase) => formatSeconds(each.seconds[phase])), each.device, each.date.slice(0, 10)]; }), "Cost by task"));
  nodes.push(element("h2", {}, "How each score was measured"));
  nodes.push(element("div", {}, present.map((task) => { const each = tasks[task.name]; return element("details", {}, element("summary", {}, task.name), element("dl", {},
    element("dt", {}, "metrics"), element("dd", {}, Object.entries(each.metrics).map(([name, value]) => `${name} ${formatScore(value[0])} (${formatInterval(value)})`).join("; ")),
    element("dt", {}, "chosen"), element("dd", {}, element("code", {}, JSON.stringify(each.chosen))),
    element("dt", {}, "command"), element("dd", {}, element("code", {}, each.command)),
    element("dt", {}, "fingerprint"), element("dd", {}, element("code", {}, task.fingerprint)))); })));
  return nodes;
}

function scrollTable(head, rows, label) {
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, element("table", {},
    element("thead", {}, element("tr", {}, head.map((name, index) => element("th", { scope: "col", class: index ? null : "name" }, name)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((cell, index) => element(index ? "td" : "th", index ? {} : { class: "name", scope: "row" }, cell)))))));
}
