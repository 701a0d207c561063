// The table of streams. The relay sorts and filters all of them; the page does the same to those it has, so that it
// answers at once.

const view = {sort: "trouble", descending: true, filter: "", limit: 100, follow: ""};

const text = (row, ...names) => names.map((name) => row[name]).find((value) => value) ?? "–";

const COLUMNS = [
  {title: "Stream", sort: "model", show: (cell, row) => two(cell, text(row, "model", "path"), shortened(row.request_id))},
  {title: "Tenant", sort: "tenant", show: (cell, row) => two(cell, text(row, "tenant", "client"), row.user || (row.tenant ? row.client : "") || "")},
  {title: "Provider", sort: "upstream", show: (cell, row) => two(cell, text(row, "upstream"), row.state.replaceAll("_", " "))},
  {title: "Slow", sort: "slow", show: (cell, row) => showHolder(cell, row.slow)},
  {title: "Tokens/s", sort: "tokens_per_second", isNumber: true, name: "tok/s", show: (cell, row) => figure(cell, decimal(row.tokens_per_second), !row.tokens_per_second)},
  {title: "Tokens", sort: "tokens", isNumber: true, name: "tokens", show: (cell, row) => figure(cell, number(row.tokens), !row.tokens)},
  {title: "Held", sort: "held_bytes", isNumber: true, name: "held", show: (cell, row) => figure(cell, bytes(row.held_bytes), !row.held_bytes, row.held_seconds > 1)},
  {title: "Pauses", sort: "pauses", isNumber: true, isMinor: true, name: "pauses", show: (cell, row) => figure(cell, number(row.pauses), !row.pauses)},
  {title: "Paused", sort: "paused_seconds", isNumber: true, isMinor: true, name: "paused", show: (cell, row) => figure(cell, seconds(row.paused_seconds), !row.paused_seconds, row.state === "paused")},
  {title: "Age", sort: "age_seconds", isNumber: true, name: "old", show: (cell, row) => figure(cell, seconds(row.age_seconds))},
];
const STALLED = 5; // seconds
const TEXT_SORTS = new Set(["model", "tenant", "upstream", "slow"]);

const rowsByKey = new Map();
let selected = null; // the key of the row that the keys move from
const keyOf = (row) => `${row.worker ?? ""} ${row.request_id} ${row.client}`;

/** Ids of one relay begin alike. */
const shortened = (id) => (id.length > 18 ? `${id.slice(0, 5)}…${id.slice(-10)}` : id);

function two(cell, above, below) {
  if (!cell.firstChild) cell.append(make("span", "one"), make("span", "two"));
  setText(cell.firstChild, above);
  setText(cell.lastChild, below);
  if (cell.title !== above) cell.title = above;
}

function figure(cell, shown, isZero, isWarm) {
  if (!cell.firstChild) cell.append(make("span"));
  setText(cell.firstChild, shown);
  setClass(cell.firstChild, isZero ? "zero" : isWarm ? "warm" : "");
}

function showHolder(cell, holder) {
  if (!cell.firstChild) {
    const who = make("span", "who");
    who.append(make("i", "dot"), make("span"));
    cell.append(who);
  }
  const known = HOLDERS.includes(holder);
  setClass(cell.firstChild, known ? `who ${holder}` : "who zero");
  setText(cell.firstChild.lastChild, known ? holder : "–");
}

function beginStreams() {
  for (const column of COLUMNS) {
    const head = make("th", column.isNumber ? "number" : "");
    if (column.isMinor) head.classList.add("minor");
    head.scope = "col";
    const button = make("button", "", column.title);
    button.type = "button";
    button.addEventListener("click", () => sortBy(column.sort));
    head.append(button);
    byId("columns").append(head);
  }
  byId("rows").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !getSelection().toString()) follow(row.dataset.id);
  });
  byId("rows").addEventListener("focusin", (event) => { selected = event.target.closest("tr").dataset.key; });
  byId("filter").addEventListener("input", () => { view.filter = byId("filter").value.trim(); changed(); });
  byId("limit").addEventListener("change", () => { view.limit = Number(byId("limit").value); changed(); });
  showSort();
}

function sortBy(name) {
  view.descending = view.sort === name ? !view.descending : !TEXT_SORTS.has(name);
  view.sort = name;
  showSort();
  changed();
}

function showSort() {
  [...byId("columns").children].forEach((head, index) => {
    const isSorted = COLUMNS[index].sort === view.sort;
    head.setAttribute("aria-sort", isSorted ? (view.descending ? "descending" : "ascending") : "none");
  });
}

function sortKey(row) {
  if (view.sort === "trouble") return [row.held_seconds >= STALLED ? row.held_seconds : 0, row.paused_seconds, row.age_seconds];
  return [row[view.sort] ?? (TEXT_SORTS.has(view.sort) ? "" : 0)];
}

function compare(one, other) {
  const left = sortKey(one), right = sortKey(other);
  for (let index = 0; index < left.length; index += 1) {
    if (left[index] !== right[index]) return (left[index] < right[index] ? -1 : 1) * (view.descending ? -1 : 1);
  }
  return 0;
}

const FIELDS = {
  id: "request_id", path: "path", client: "client", upstream: "upstream", model: "model", tenant: "tenant",
  user: "user", session: "session", state: "state", slow: "slow",
};

function fits(row) {
  return view.filter.toLowerCase().split(/\s+/).filter(Boolean).every((word) => {
    const colon = word.indexOf(":"), field = colon > 0 ? FIELDS[word.slice(0, colon)] : undefined;
    const has = (name, wanted) => String(row[name] ?? "").toLowerCase().includes(wanted);
    return field ? has(field, word.slice(colon + 1)) : Object.values(FIELDS).some((name) => has(name, word));
  });
}

function showStreams(live) {
  const rows = live.streams.filter(fits).sort(compare).slice(0, view.limit);
  const body = byId("rows"), known = new Set();
  let before = body.firstElementChild;
  for (const row of rows) {
    const key = keyOf(row);
    if (known.has(key)) continue; // one that clients have named twice
    known.add(key);
    const element = rowsByKey.get(key) ?? newRow(key, row.request_id);
    if (element === before) before = before.nextElementSibling;
    else moveBefore(body, element, before);
    COLUMNS.forEach((column, index) => column.show(element.children[index], row));
    const isFollowed = String(row.request_id === view.follow);
    if (element.getAttribute("aria-selected") !== isFollowed) element.setAttribute("aria-selected", isFollowed);
  }
  for (const [key, element] of rowsByKey) {
    if (!known.has(key)) { rowsByKey.delete(key); element.remove(); }
  }
  keepOneStop();
  showCount(live, rows.length);
  showHolders(live.totals.slow);
}

function newRow(key, id) {
  const element = make("tr");
  element.dataset.key = key;
  element.dataset.id = id;
  element.tabIndex = -1;
  for (const column of COLUMNS) {
    const cell = make("td", `${column.isNumber ? "number " : ""}${column.isMinor ? "minor" : ""}`.trim());
    if (column.name) cell.dataset.name = column.name;
    element.append(cell);
  }
  rowsByKey.set(key, element);
  return element;
}

/** A row that has the focus keeps it when it is moved. */
function moveBefore(body, element, before) {
  const hasFocus = element === document.activeElement;
  body.insertBefore(element, before);
  if (hasFocus) element.focus({preventScroll: true});
}

/** The table is one stop of the Tab key. */
function keepOneStop() {
  const stop = rowsByKey.get(selected) ?? byId("rows").firstElementChild;
  for (const element of rowsByKey.values()) {
    const index = element === stop ? 0 : -1;
    if (element.tabIndex !== index) element.tabIndex = index;
  }
}

function showCount(live, shown) {
  const {matching} = live.view, all = live.totals.streams;
  const of = matching < all ? `${number(matching)} of ${number(all)} fit` : number(all);
  setText(byId("shown"), shown < matching ? `${of}, the first ${number(shown)}` : of);
  byId("empty").hidden = shown > 0;
  setText(byId("empty"), all ? "No open stream fits the filter." : "No stream is open.");
}

function showHolders(slow) {
  const items = [{name: "trouble"}, ...HOLDERS.map((name) => ({name, count: slow[name] ?? 0}))];
  each(byId("holders"), items, () => {
    const chip = make("button", "chip");
    chip.type = "button";
    chip.append(make("i", "dot"), make("span"), make("b"));
    chip.addEventListener("click", () => pickHolder(chip.dataset.name));
    return chip;
  }, (chip, {name, count}) => {
    chip.dataset.name = name;
    const isTrouble = name === "trouble";
    setClass(chip, isTrouble ? "chip" : `chip ${name}`);
    chip.firstChild.hidden = isTrouble;
    chip.lastChild.hidden = isTrouble;
    setText(chip.children[1], isTrouble ? "Trouble first" : `slow ${name}`);
    setText(chip.lastChild, isTrouble ? "" : number(count));
    const isPressed = isTrouble ? view.sort === "trouble" : view.filter.split(/\s+/).includes(`slow:${name}`);
    chip.setAttribute("aria-pressed", String(isPressed));
  });
}

function pickHolder(name) {
  if (name === "trouble") {
    view.sort = "trouble";
    view.descending = true;
    showSort();
  } else {
    const word = `slow:${name}`, words = view.filter.split(/\s+/).filter(Boolean);
    view.filter = words.includes(word)
      ? words.filter((each) => each !== word).join(" ")
      : [...words.filter((each) => !each.startsWith("slow:")), word].join(" ");
    byId("filter").value = view.filter;
  }
  changed();
}

function moveSelection(step) {
  const all = [...byId("rows").children];
  if (!all.length) return;
  const from = all.findIndex((element) => element.dataset.key === selected);
  const hasFocus = from >= 0 && all[from] === document.activeElement;
  const to = all[hasFocus ? Math.min(all.length - 1, Math.max(0, from + step)) : Math.max(0, from)];
  selected = to.dataset.key;
  keepOneStop();
  to.focus();
}
