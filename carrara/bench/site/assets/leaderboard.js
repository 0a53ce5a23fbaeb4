"use strict";
// The leaderboard: systems by tasks, with search, filters, sorting and a choice of columns, all kept in the address.

const LEVEL_NAMES = { acoustic: "Acoustic", score: "Score", performance: "Performance", "high-level": "High-level", "": "Other" };

// Every column that can be shown: an id, a title, what it sorts by, and a function that fills a cell.
function boardColumns(board) {
  const systems = siteData().systems;
  const best = board.tasks.map((task, index) => {
    const values = board.entries.map((entry) => entry.results[index]).filter((result) => result && !result[3].includes("*")).map((result) => result[0]);
    return values.length > 1 ? (task.better === "higher" ? Math.max : Math.min)(...values) : null;
  });
  const fact = (id, title, value, show, isText) => ({ id, title, isText, isHidden: true, value: (row) => (row.system ? value(row.system, row.entry) : null), cell: (row) => [row.system ? show(row.system, row.entry) : "–"] });
  const scoreCell = (interval) => (interval ? [formatScore(interval[0]), element("small", {}, formatInterval(interval))] : ["–"]);
  const columns = [
    { id: "rank", title: "Rank", ascending: true, value: (row) => (row.entry ? row.entry.rank : null), cell: (row) => [row.published ? "–" : row.entry.floor ? "floor" : String(row.entry.rank ?? "–")] },
    { id: "system", title: "System", isText: true, ascending: true, value: (row) => row.name.toLowerCase() },
    {
      id: "average", title: `Average of ${board.ranked.length}`, value: (row) => (row.published ? publishedAverage(row.published, board) : row.entry.average && row.entry.average[0]),
      cell: (row) => (row.published ? [formatScore(publishedAverage(row.published, board))] : row.entry.average ? scoreCell(row.entry.average) : [`– ${row.entry.complete}/${board.averaged.length}`]),
    },
    ...[...new Set(board.tasks.map((task) => task.level))].filter((level) => level && board.tasks.filter((task) => task.level === level).length > 1).map((level) => ({
      id: "level:" + level, title: LEVEL_NAMES[level] + " mean", level, isHidden: true,
      value: (row) => (row.entry && row.entry.levels[level] ? row.entry.levels[level][0] : null), cell: (row) => scoreCell(row.entry && row.entry.levels[level]),
    })),
    ...board.tasks.map((task, index) => ({
      id: task.name, title: task.name + (task.unit === "dB" ? " (dB)" : "") + (task.better === "lower" ? " (lower is better)" : ""), level: task.level, task, ascending: task.better === "lower",
      value: (row) => { const result = row.published ? row.published.results[index] : row.entry.results[index]; return result ? result[0] : null; },
      cell: (row, node) => {
        if (row.published) {
          const result = row.published.results[index];
          if (!result) return ["–"];
          node.title = `not rerun: printed in ${row.published.sources.join(", ")}`;
          return [formatScore(result[0]) + result[1] + "‡"];
        }
        const result = row.entry.results[index];
        if (!result) return ["–"];
        const [value, low, high, marks] = result;
        if (value === best[index] && !marks.includes("*")) node.className = "best";
        const words = markWords(marks);
        return [element("a", { href: recordAddress(row.system, board, task), title: `record of ${row.name} on ${task.name}${words ? ": " + words : ""}` }, formatScore(value) + marks), element("small", {}, formatInterval([value, low, high]))];
      },
    })),
    fact("parameters", "Parameters", (system) => system.parameters, (system) => formatCount(system.parameters)),
    fact("hours", "Hours of training audio", (system) => (system.training_hours ? system.training_hours[1] : null), (system) => formatHours(system.training_hours)),
    fact("seconds", "Time for the ranked tasks", (system, entry) => entry.seconds, (system, entry) => formatSeconds(entry.seconds)),
    fact("speed", "Clips encoded a second", (system, entry) => entry.clips_per_second, (system, entry) => formatScore(entry.clips_per_second)),
    fact("license", "Licence", (system) => (system.license || "").toLowerCase(), (system) => system.license || "not stated", true),
    fact("data", "Trained on", (system) => system.trained_on.join(", "), (system) => system.trained_on.join(", ") || "–", true),
  ];
  return columns;
}

// A title that may be broken after a slash or a hyphen, and nowhere else.
function breakable(title) {
  return title.split(/(?<=[/-])/).flatMap((part, index) => (index ? [document.createElement("wbr"), part] : [part]));
}

function publishedAverage(published, board) {
  const values = board.ranked.map((index) => published.results[index]).filter(Boolean).map((result) => result[0]);
  return values.length && values.length === board.ranked.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

function boardRows(board) {
  const systems = siteData().systems;
  const measured = board.entries.map((entry) => ({ entry, system: systems[entry.system], name: systems[entry.system].name }));
  return [...measured, ...board.published.map((published) => ({ published, name: published.name }))];
}

// Whether a row passes the search and the filters of the address. Published systems have no card to filter by.
function isShown(row, query) {
  const words = (query.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  const system = row.system;
  const text = [row.name, ...(system ? [system.license, system.network, system.pretraining_task, ...system.trained_on] : row.published.sources)].join(" ").toLowerCase();
  if (!words.every((word) => text.includes(word))) return false;
  if (!system) return query.get("published") !== "0" && !["license", "commercial", "size", "speed", "data"].some((key) => query.get(key));
  if (query.get("license") && (system.license || "not stated") !== query.get("license")) return false;
  const commercial = { yes: true, no: false, unknown: null }[query.get("commercial")];
  if (commercial !== undefined && (system.commercial_use ?? null) !== commercial) return false;
  if (query.get("size") && !(system.parameters <= Number(query.get("size")))) return false;
  if (query.get("speed") && !(row.entry.clips_per_second >= Number(query.get("speed")))) return false;
  const data = query.get("data") || "";
  if (data === "none") return Object.values(row.entry.results).every((result) => !result[3].includes("†"));
  return !data || system.trained_on.includes(data);
}

function sortRows(rows, columns, query) {
  const column = columns.find((each) => each.id === query.get("sort"));
  if (!column) return rows;
  const sign = (query.get("order") || (column.ascending ? "up" : "down")) === "up" ? 1 : -1;
  const missing = (value) => value === null || value === undefined || value === "";
  return [...rows].sort((first, second) => {
    const a = column.value(first), b = column.value(second);
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  });
}

function shownColumns(columns, query) {
  const show = (query.get("show") || "").split("|"), hide = (query.get("hide") || "").split("|");
  return columns.filter((column) => column.id === "system" || (column.isHidden ? show.includes(column.id) : !hide.includes(column.id)));
}

pageRenderers[""] = (rest, query) => {
  const board = chosenBoard(query);
  const columns = boardColumns(board);
  const rows = boardRows(board);
  const holder = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Scores" });
  const count = element("p", { class: "soft", role: "status", id: "count" });

  function update(key, value) {
    if (value === null) query.delete(key); else query.set(key, value);
    writeAddress("", query);
    draw();
  }
  function sortBy(column) {
    const usual = column.ascending ? "up" : "down";
    const order = query.get("sort") === column.id ? ((query.get("order") || usual) === "up" ? "down" : "up") : usual;
    query.set("sort", column.id);
    query.set("order", order === usual ? "" : order);
    writeAddress("", query);
    draw();
    holder.querySelector(`[data-sort="${CSS.escape(column.id)}"]`).focus();
  }
  function draw() {
    const shown = sortRows(rows.filter((row) => isShown(row, query)), columns, query);
    count.textContent = `${shown.length} of ${rows.length} systems, ${board.tasks.length} tasks`;
    if (!shown.length) {
      const clear = element("button", { onclick: () => { location.hash = address("", undefined, { board: board.id }); } }, "Clear search and filters");
      holder.replaceChildren(element("p", { class: "state" }, "No system passes the search and the filters. ", clear));
      return;
    }
    holder.replaceChildren(boardTable(board, shownColumns(columns, query), shown, query, sortBy));
  }
  const unique = (values) => [...new Set(values)].sort();
  const systems = board.entries.map((entry) => siteData().systems[entry.system]);
  const search = element("input", { type: "search", id: "search", value: query.get("q") || "", placeholder: "name, licence, data …", oninput: (event) => update("q", event.target.value) });
  const controls = element("div", { class: "controls" },
    boardSelect(board, (id) => { location.hash = address("", undefined, { board: id }); }),
    labelled("Search", search, "search"),
    labelled("Licence", choice("license", [["", "any"], ...unique(systems.map((system) => system.license || "not stated")).map((name) => [name, name])], query.get("license") || "", (value) => update("license", value))),
    labelled("Commercial use", choice("commercial", [["", "any"], ["yes", "allowed"], ["no", "not allowed"], ["unknown", "unknown"]], query.get("commercial") || "", (value) => update("commercial", value))),
    labelled("Parameters", choice("size", [["", "any number"], ["1000000", "up to 1 M"], ["10000000", "up to 10 M"], ["100000000", "up to 100 M"], ["400000000", "up to 400 M"]], query.get("size") || "", (value) => update("size", value))),
    labelled("Throughput", choice("speed", [["", "any"], ["1", "1 clip a second or more"], ["10", "10 clips or more"], ["100", "100 clips or more"]], query.get("speed") || "", (value) => update("speed", value))),
    labelled("Training data", choice("data", [["", "any"], ["none", "no † (nothing in-domain)"], ...unique(systems.flatMap((system) => system.trained_on)).map((name) => [name, "trained on " + name])], query.get("data") || "", (value) => update("data", value))),
    board.published.length ? element("label", { class: "check" }, element("input", { type: "checkbox", id: "published", checked: query.get("published") !== "0", onchange: (event) => update("published", event.target.checked ? null : "0") }), "not rerun ‡") : null,
  );
  const boxes = columns.filter((column) => column.id !== "system").map((column) => {
    const key = column.isHidden ? "show" : "hide";
    const isOn = shownColumns(columns, query).includes(column);
    const change = (event) => {
      const set = new Set((query.get(key) || "").split("|").filter(Boolean));
      if (event.target.checked === Boolean(column.isHidden)) set.add(column.id); else set.delete(column.id);
      update(key, [...set].join("|"));
    };
    return element("label", {}, element("input", { type: "checkbox", "data-column": column.id, checked: isOn, onchange: change }), column.title);
  });
  draw();
  return [
    element("h1", {}, board.title),
    element("p", { class: "soft" }, "Percent where not dB, with 95 % intervals; the best of a task in bold. A score opens its record, a name its system, a task its page."),
    controls, count,
    element("details", { id: "columns" }, element("summary", {}, "Columns"), element("div", { class: "columns" }, boxes)),
    holder,
    element("ul", { class: "notes" }, board.notes.map((note) => element("li", {}, note.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part))))),
  ];
};

function boardTable(board, columns, rows, query, sortBy) {
  const spans = [];
  for (const column of columns) {
    const level = column.task || column.level ? LEVEL_NAMES[column.level] : "";
    if (spans.length && spans[spans.length - 1][0] === level && column.id !== "average") spans[spans.length - 1][1] += 1;
    else spans.push([level, 1]);
  }
  const order = (column) => (query.get("order") || (column.ascending ? "up" : "down")) === "up" ? "ascending" : "descending";
  const levels = element("tr", {}, spans.map(([level, size]) => element("th", { colspan: size, class: level ? "level" : null, scope: "colgroup" }, level)));
  const head = element("tr", {}, columns.map((column) => element("th", { scope: "col", class: column.id === "system" ? "name" : null, "aria-sort": query.get("sort") === column.id ? order(column) : null },
    element("button", { "data-sort": column.id, onclick: () => sortBy(column) }, breakable(column.title)),
    column.task ? element("small", {}, " ", element("a", { href: address("task", column.task.name, { board: board.id }), "aria-label": "page of " + column.task.name }, "page")) : null)));
  const body = element("tbody");
  for (const row of rows) {
    const line = document.createElement("tr");
    if (row.published) line.className = "published";
    for (const column of columns) {
      if (column.id === "system") {
        const name = row.published ? [row.name, " ", element("span", { class: "tag" }, "not rerun ‡")] : [element("a", { href: address("system", row.name, { board: board.id }) }, row.name)];
        line.append(element("th", { class: "name", scope: "row" }, name));
        continue;
      }
      const cell = document.createElement("td");
      if (column.isText) cell.className = "text";
      cell.append(...column.cell(row, cell));
      line.append(cell);
    }
    body.append(line);
  }
  return element("table", {}, element("thead", { class: "two" }, levels, head), body);
}
