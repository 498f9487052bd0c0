const at = id => document.getElementById(id);
const element = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);  // strings become text, never HTML
  return made;
};
const address = path => new URL(path, location.href).href;

// The API key: requested when the server requires it, and kept no longer than the tab.
let storage = null;
try { storage = sessionStorage; } catch { /* storage is disabled: the key lasts until a reload */ }
let key = storage?.getItem("api_key") ?? "";
const headers = more => key ? { ...more, Authorization: `Bearer ${key}` } : more;
function askForKey() {
  if (at("key-form").hidden) {
    at("key-form").hidden = false;
    at("key").value = key;
  }
  at("key").focus();
}
at("key-form").addEventListener("submit", event => {
  event.preventDefault();
  key = at("key").value.trim();
  storage?.setItem("api_key", key);
  refresh();
});

async function errorMessage(answer) {
  const text = await answer.text();
  let message = `HTTP ${answer.status} ${answer.statusText}`;  // for example of a proxy
  try { message = JSON.parse(text).error.message ?? message; } catch { /* not our format: show the status */ }
  const later = answer.headers.get("Retry-After");
  return later ? `${message} (try again in ${later} s)` : message;
}
const UNREACHABLE = "The server does not answer, or the connection was lost.";

// What is served. A page's own `showAbout` shows what only it needs.
let refreshes = 0;
async function refresh() {
  const current = ++refreshes;  // a late answer to a request without the key must not open the form again
  let answer, about;
  try {
    answer = await fetch(address("."), { headers: headers({ Accept: "application/json" }), cache: "no-store" });
    if (!answer.ok) {
      const message = await errorMessage(answer);
      if (current !== refreshes) return;
      at("about").textContent = message;
      if (answer.status === 401) askForKey();
      return;
    }
    about = await answer.json();
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof SyntaxError)) throw error;
    if (current === refreshes) at("about").textContent = UNREACHABLE;
    return;
  }
  if (current !== refreshes) return;
  if (key) at("key-form").hidden = true;
  const data = about.data ? `, data ${about.data.slice(0, 12)}` : "";
  const why = about.why ? ` (${about.why})` : "";
  if (about.model) at("about").textContent = `${about.name}: model ${about.model.slice(0, 12)}${why}${data}, engine ${about.engine}`;
  else if (about.status === "waiting") at("about").textContent = about.why;
  else at("about").textContent = about.status === "loading" ? "The model is being loaded." : "The model could not be loaded.";
  at("about").className = about.status === "waiting" ? "bad" : "soft";
  if (about.status === "loading" || about.status === "waiting") setTimeout(refresh, about.status === "loading" ? 1000 : 5000);
  showVerdict(about.verdict);
  at("refused").hidden = !about.refused;
  if (about.refused) at("refused").textContent = `Version ${(about.refused.version ?? "unknown").slice(0, 12)} was refused: ${about.refused.reason}`;
  showAbout(about);
}
const REASONS = 2;  // of a verdict that are shown; GET / has all
function showVerdict(verdict) {
  at("verdict").hidden = !verdict;
  if (!verdict) return;
  const { outcome, reasons } = verdict;
  at("verdict").className = outcome === "promoted" ? "soft" : "bad";
  at("verdict").textContent = `Verdict: ${outcome}${verdict.at ? ` (${verdict.at})` : ""}${reasons.length ? `. ${reasons.slice(0, REASONS).join(" ")}` : ""}`;
}

// Invisible characters become escapes: pasted into a terminal, they could act as keys.
const HIDDEN = /[\p{C}\p{Zl}\p{Zp}]/gu;
const hex = (number, digits) => number.toString(16).padStart(digits, "0");
const json = value => JSON.stringify(value).replace(HIDDEN, match => match.split("").map(unit => `\\u${hex(unit.charCodeAt(0), 4)}`).join(""));
const shell = text => `'${text.replaceAll("'", "'\\''")}'`;
