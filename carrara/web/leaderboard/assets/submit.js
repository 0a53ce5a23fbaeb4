"use strict";
// Uploads records with their predictions, one after the other. The token is in its field and in the header, nowhere else.

const RECORD = ".json", PREDICTIONS = ".predictions.parquet";
const TRIES = 4, MAX_WAIT_SECONDS = 90;

// The records among files, by name, each with its predictions or without.
function pairFiles(files) {
  const byName = new Map(files.map((file) => [file.webkitRelativePath || file.name, file]));
  return [...byName.keys()].filter((name) => name.endsWith(RECORD)).sort().map((name) => ({
    name, record: byName.get(name), predictions: byName.get(name.slice(0, -RECORD.length) + PREDICTIONS),
  }));
}

function describeProblem(answer, body) {
  const findings = (body.findings || []).map((each) => each.check + ": " + each.problem);
  return findings.join("; ") || body.detail || "status " + answer.status;
}

// Returns the outcome and a line; raises an error where the next record would fare no better.
async function uploadRecord(pair, token) {
  if (!pair.predictions) return ["left out", "its " + PREDICTIONS + " was not chosen with it"];
  const form = new FormData();
  form.append("record", pair.record);
  form.append("predictions", pair.predictions);
  let problem = "";
  for (let number = 0; number < TRIES; number++) {
    let answer, body;
    try {
      answer = await fetch("api/records", { method: "POST", headers: { Authorization: "Bearer " + token }, body: form, redirect: "error" });
      body = await answer.json();
    } catch (error) {
      throw new Error("no answer from the leaderboard (" + error.message + ")");
    }
    if (answer.status === 201) return ["accepted", "record " + body.id];
    problem = describeProblem(answer, body);
    if (answer.status === 409) return ["duplicate", problem];
    if (![429, 503].includes(answer.status)) {
      if ([401, 403].includes(answer.status)) throw new Error(problem);
      return ["refused", problem];
    }
    const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 2, MAX_WAIT_SECONDS);
    showStatus(problem + "; next try in " + seconds + " s", false);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
  throw new Error(problem);
}

function showStatus(text, isError) {
  const status = document.getElementById("status");
  status.className = isError ? "error" : "";
  status.textContent = text;
}

function showOutcome(name, outcome, detail) {
  const isBad = ["refused", "left out"].includes(outcome);
  document.querySelector("#outcomes tbody").append(element("tr", {},
    element("td", { class: "record" }, name),
    element("td", { class: isBad ? "record error" : "record" }, outcome + ": " + detail)));
}

async function submitFiles() {
  const token = document.getElementById("token").value.trim();
  const files = ["files", "folder"].flatMap((id) => [...document.getElementById(id).files]);
  const pairs = pairFiles(files);
  document.querySelector("#outcomes tbody").replaceChildren();
  document.getElementById("outcomes").hidden = !pairs.length;
  if (!/^[\x21-\x7e]+$/.test(token)) return showStatus("This is no token; ask the leaderboard's owner for one.", true);
  if (!pairs.length) return showStatus("Choose records (.json) with their predictions, or a folder of them.", true);
  const counts = {};
  for (const [index, pair] of pairs.entries()) {
    showStatus("Submitting " + (index + 1) + " of " + pairs.length + "…", false);
    try {
      const [outcome, detail] = await uploadRecord(pair, token);
      counts[outcome] = (counts[outcome] || 0) + 1;
      showOutcome(pair.name, outcome, detail);
    } catch (error) {
      return showStatus(pair.name + ": " + error.message + ". Submit again to continue; what was accepted stays.", true);
    }
  }
  showStatus(Object.entries(counts).map(([outcome, count]) => count + " " + outcome).join(", ") + ".", false);
}

document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = document.getElementById("submit");
  button.disabled = true;
  try {
    await submitFiles();
  } finally {
    button.disabled = false;
  }
});
