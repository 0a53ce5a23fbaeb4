"use strict";
// The page of a task: every system's score, the layer that validation chose, scores by class, and the hardest clips.

const MAX_CLASS_COLUMNS = 6;

pageRenderers.task = (rest, query) => {
  const name = rest.join("/");
  const boards = siteData().boards.filter((each) => each.tasks.some((task) => task.name === name));
  if (!boards.length) return showMessage(`There is no task ${name} on this site.`, true);
  const board = boards.find((each) => each.id === query.get("board")) || boards[0];
  const number = board.tasks.findIndex((task) => task.name === name);
  const task = board.tasks[number];
  const systems = siteData().systems;
  const rows = [
    ...board.entries.filter((entry) => entry.results[number]).map((entry) => ({ system: systems[entry.system], name: systems[entry.system].name, result: entry.results[number] })),
    ...board.published.filter((each) => each.results[number]).map((each) => ({ name: each.name + " ‡", published: each, result: [each.results[number][0], null, null, each.results[number][1], ""] })),
  ].sort((a, b) => (task.better === "higher" ? b.result[0] - a.result[0] : a.result[0] - b.result[0]));
  if (!rows.length) return [element("h1", {}, name), element("p", { class: "state" }, "No system has a record on this task yet. carrara bench ENCODER -t " + name + " measures one.")];
  const values = rows.filter((row) => row.system).map((row) => row.result[0]).sort((a, b) => a - b);
  const quantile = (fraction) => { const at = fraction * (values.length - 1), low = Math.floor(at); return values[low] + (at - low) * ((values[low + 1] ?? values[low]) - values[low]); };
  const spread = values.length > 1 ? `Median ${formatScore(quantile(0.5))}, quartiles ${formatScore(quantile(0.25))} and ${formatScore(quantile(0.75))}, ${values.length} systems measured.` : "";
  const lines = rows.map((row) => ({
    label: row.name + row.result[3], href: row.system ? address("system", row.name, { board: board.id }) : null, title: `${row.name}: ${formatScore(row.result[0])}${row.published ? ", not rerun" : `, ${formatInterval(row.result)}`}`,
    value: row.result[0], low: row.result[1], high: row.result[2], className: row.published ? "hollow" : "dot",
  }));
  return showWhenLoaded(`tasks/${board.id}/${task.slug}`, (data) => [
    element("h1", {}, name),
    element("p", { class: "soft" }, `${board.title}. Level: ${LEVEL_NAMES[task.level].toLowerCase()}. Score: mean of ${task.metrics.join(", ") || "its metrics"}, ${task.better} is better${task.n ? `, over ${task.n.toLocaleString("en")} test units` : ""}.`),
    element("h2", {}, "Scores"), element("p", { class: "soft" }, spread),
    element("div", { class: "plot" }, intervalPlot(lines, "Scores on " + name, { lineHeight: rows.length > 60 ? 16 : 22 })),
    element("h2", {}, "Best layer by system"),
    scrollTable(["system", "score", "95 % interval", "chosen layer", "of", "record"], rows.filter((row) => row.system).map((row) => [
      element("a", { href: address("system", row.name, { board: board.id }) }, row.name), formatScore(row.result[0]) + row.result[3], formatInterval(row.result), row.result[4] || "–", row.system.num_layers === null ? "–" : "0 to " + row.system.num_layers,
      element("a", { href: recordAddress(row.system, board, task) }, "record"),
    ]), "Best layer by system"),
    element("h2", {}, "Scores by class"), ...classTable(data, rows.filter((row) => row.system).map((row) => row.name)), ...hardestClips(data),
  ]);
};

// The first systems of the task, class by class; a cell's tint is its score.
function classTable(data, names) {
  if (data === null) return [element("p", { class: "state error", role: "alert" }, "The data of this task is missing or damaged; write the site again.")];
  const known = names.filter((name) => data.scores && name in data.scores);
  if (!known.length) return [element("p", { class: "soft" }, "No scores by class: the task has no classes, or there are no predictions beside its records.")];
  const chosen = known.slice(0, MAX_CLASS_COLUMNS);
  const rows = data.classes.map(([label, count], index) => [
    label, count.toLocaleString("en"), ...chosen.map((name) => {
      const value = data.scores[name][index];
      if (value === null) return "–";
      const cell = element("span", { class: "heat" }, formatScore(value));
      cell.style.setProperty("--heat", Math.round(Math.max(0, value) * 0.4) + "%"); // a style attribute is against the policy of a served site
      return cell;
    }),
  ]);
  const rest = known.length > chosen.length ? ` The ${chosen.length} best of ${known.length} systems; the data has all.` : "";
  return [element("p", { class: "soft" }, `${data.metric[0].toUpperCase() + data.metric.slice(1)} in percent, mean over training seeds.${rest}`), scrollTable(["class", "test units", ...chosen], rows, "Scores by class")];
}

// The clips on which the systems err most, with sound where the site was written beside the dataset.
function hardestClips(data) {
  if (!data || !data.hardest || !data.hardest.length) return [];
  const hasLabels = "truth" in data.hardest[0], hasSound = data.hardest.some((each) => each.sound);
  const rows = data.hardest.map((each) => [
    each.clip, ...(hasSound ? [each.sound ? element("audio", { src: each.sound, controls: true, preload: "none", "aria-label": "clip " + each.clip }) : "–"] : []),
    hasLabels ? formatScore(100 * each.error) : each.error.toFixed(3), each.systems.toLocaleString("en"), ...(hasLabels ? [each.truth, each.answer] : []),
  ]);
  const head = ["clip", ...(hasSound ? ["sound"] : []), hasLabels ? "wrong (%)" : "mean error", "systems", ...(hasLabels ? ["truth", "most frequent answer"] : [])];
  const missing = hasSound ? "" : " Their sound is copied by carrara leaderboard --site DIR --data-dir DATASETS.";
  return [element("h2", {}, "Hardest clips"), element("p", { class: "soft" }, "Test clips on which these systems err most, mean over systems." + missing), scrollTable(head, rows, "Hardest clips")];
}
