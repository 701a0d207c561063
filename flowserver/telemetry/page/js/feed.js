// The feed, and what the page says of its own state.

const feed = {source: null, url: "", live: null, heardAt: 0, wait: 1000, timer: 0, startedAt: null, isHeld: false};
const SILENT = 4000; // milliseconds without a word, at one object a second
const HIDDEN = 60000; // after so long in the background the page asks no more
let changing = 0, hiding = 0;

function feedUrl() {
  const asked = new URLSearchParams({limit: String(view.limit), sort: (view.descending ? "-" : "") + view.sort});
  if (view.filter) asked.set("filter", view.filter);
  if (view.follow) asked.set("follow", view.follow);
  return `live?${asked}`;
}

/** The view is another one: show what is known at once, and ask for it when the typing rests. */
function changed() {
  keepInAddress();
  if (feed.live) showStreams(feed.live);
  clearTimeout(changing);
  changing = setTimeout(() => { if (feedUrl() !== feed.url) listen(); }, 250);
}

function listen() {
  clearTimeout(feed.timer);
  feed.source?.close();
  feed.url = feedUrl();
  const source = feed.source = new EventSource(feed.url);
  source.onmessage = (event) => { if (source === feed.source) hear(event.data); };
  source.onerror = () => {
    if (source !== feed.source) return;
    showState();
    // The browser asks again by itself where the connection was lost, and gives up where the answer was no feed.
    if (source.readyState === EventSource.CLOSED) {
      explainRefusal(feed.url);
      feed.timer = setTimeout(listen, feed.wait);
      feed.wait = Math.min(10000, feed.wait * 1.6);
    }
  };
}

async function explainRefusal(url) {
  try {
    const answer = await fetch(`${url}&once`, {cache: "no-store"});
    if (answer.ok) return;
    notify((await answer.text()).trim().slice(0, 300), true);
  } catch { /* it is not there, and the state says so */ }
}

function hear(data) {
  const live = JSON.parse(data);
  feed.heardAt = Date.now();
  feed.wait = 1000;
  const started = live.process.started_at;
  if (feed.startedAt !== null && started !== undefined && started !== feed.startedAt) {
    notify(`The relay has started again, at ${time(started)}. Its counts began anew.`);
  } else if (byId("notice").classList.contains("bad")) byId("notice").hidden = true;
  feed.startedAt = started ?? feed.startedAt;
  note(live);
  feed.live = live;
  if (!feed.isHeld && !document.hidden) show(live);
  showState();
}

function show(live) {
  showCharts(live);
  showStreams(live);
  showDetail(live);
  showProviders(live);
  showTenants(live);
  showRelay(live);
  showEnds(live);
  const {version, started_at: started, workers} = live.process;
  const parts = [`version ${version}`];
  if (started !== undefined) parts.push(`up ${seconds(live.time - started)}`);
  if (workers > 1) parts.push(`${workers} workers`);
  setText(byId("about"), parts.join(" · "));
  document.title = `${number(live.totals.streams)} streams · flowserver`;
}

function showState() {
  const silent = Date.now() - feed.heardAt;
  let state = "live", said = "Live";
  if (feed.heardAt === 0) {
    state = feed.source?.readyState === EventSource.CONNECTING ? "connecting" : "lost";
    said = state === "lost" ? "No answer" : "Connecting";
  } else if (silent > SILENT || feed.source?.readyState === EventSource.CLOSED) {
    state = "lost";
    said = `No answer for ${seconds(Math.round(silent / 1000))}, asking again`;
  } else if (feed.isHeld) { state = "held"; said = "Held still"; }
  else if (feed.live?.process.draining) { state = "held"; said = "Draining"; }
  if (byId("state").dataset.state !== state) byId("state").dataset.state = state;
  setText(byId("state").lastElementChild, said);
  document.body.classList.toggle("stale", state === "lost" && feed.heardAt > 0);
}

let noticeTimer = 0;

function notify(said, isBad = false) {
  const notice = byId("notice");
  setText(notice, said);
  notice.classList.toggle("bad", isBad);
  notice.hidden = false;
  clearTimeout(noticeTimer);
  if (!isBad) noticeTimer = setTimeout(() => { notice.hidden = true; }, 15000);
}

// --- the view in the address, so that it can be kept and sent ---

function keepInAddress() {
  const asked = new URLSearchParams();
  if (view.filter) asked.set("filter", view.filter);
  if (view.sort !== "trouble" || !view.descending) asked.set("sort", (view.descending ? "-" : "") + view.sort);
  if (view.limit !== 100) asked.set("limit", String(view.limit));
  const hash = asked.toString();
  window.history.replaceState(null, "", hash ? `#${hash}` : window.location.pathname);
}

function viewFromAddress() {
  const asked = new URLSearchParams(window.location.hash.slice(1));
  view.filter = (asked.get("filter") ?? "").slice(0, 200);
  const sort = asked.get("sort") ?? "-trouble", name = sort.replace(/^-/, "");
  if (name === "trouble" || COLUMNS.some((column) => column.sort === name)) {
    view.sort = name;
    view.descending = sort.startsWith("-");
  }
  const limit = asked.get("limit");
  if ([...byId("limit").options].some((option) => option.value === limit)) view.limit = Number(limit);
  byId("filter").value = view.filter;
  byId("limit").value = String(view.limit);
}

// --- theme, keys ---

const THEMES = ["auto", "light", "dark"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function showTheme() {
  const chosen = remembered(localStorage, "flowserver-theme") ?? "auto";
  const theme = THEMES.includes(chosen) ? chosen : "auto";
  document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  setText(byId("theme"), `Theme: ${theme}`);
  recolourCharts();
}

function nextTheme() {
  const at = THEMES.indexOf(remembered(localStorage, "flowserver-theme") ?? "auto");
  remember(localStorage, "flowserver-theme", THEMES[(at + 1) % THEMES.length]);
  showTheme();
}

function hold() {
  feed.isHeld = !feed.isHeld;
  byId("pause").setAttribute("aria-pressed", String(feed.isHeld));
  setText(byId("pause"), feed.isHeld ? "Go on" : "Pause");
  if (!feed.isHeld && feed.live) show(feed.live);
  showState();
}

const KEYS = {
  "/": () => byId("filter").focus(),
  "?": () => byId("keys").showModal(),
  p: hold, t: nextTheme, j: () => moveSelection(1), k: () => moveSelection(-1),
  ArrowDown: () => moveSelection(1), ArrowUp: () => moveSelection(-1),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  const {target, key} = event, isField = target.matches("input, select");
  if (key === "Escape") {
    if (!byId("detail").hidden) unfollow();
    else if (view.filter) { byId("filter").value = view.filter = ""; changed(); }
  } else if (key === "Enter" && target.matches("tbody tr")) {
    event.preventDefault(); // or the same key would press the button that gets the focus
    follow(target.dataset.id);
  }
  else if (key === "ArrowDown" && target === byId("filter")) { event.preventDefault(); moveSelection(1); }
  else if (!isField && KEYS[key] && (!key.startsWith("Arrow") || target.matches("tbody tr"))) {
    event.preventDefault();
    KEYS[key]();
  }
}

function onVisibility() {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => { feed.source?.close(); feed.url = ""; }, HIDDEN);
  else if (!feed.url) listen();
  else if (feed.live && !feed.isHeld) show(feed.live);
}

viewFromAddress();
beginCharts();
beginStreams();
beginDetail();
showTheme();
dark.addEventListener("change", showTheme);
byId("theme").addEventListener("click", nextTheme);
byId("pause").addEventListener("click", hold);
byId("help").addEventListener("click", () => byId("keys").showModal());
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", onVisibility);
window.addEventListener("hashchange", () => { viewFromAddress(); showSort(); changed(); });
setInterval(showState, 1000);
listen();
