// One stream that is followed, and its end.

const TOKEN = "flowserver-admin-token";
const detail = {chart: null, time: [], rate: [], row: null, isOver: false, opener: null};

function follow(id) {
  detail.opener = document.activeElement;
  view.follow = id;
  Object.assign(detail, {time: [], rate: [], row: null, isOver: false});
  byId("detail").hidden = false;
  setText(byId("detail-id"), id);
  setText(byId("detail-state"), "");
  setText(byId("end-result"), "");
  byId("token-label").hidden = true;
  byId("end").disabled = false;
  byId("forget").hidden = remembered(sessionStorage, TOKEN) === null;
  detail.chart ??= lineChart(byId("detail-chart"), decimal, "--accent");
  detail.chart.setData([[], []]);
  changed();
  byId("close").focus();
}

function unfollow() {
  view.follow = "";
  byId("detail").hidden = true;
  changed();
  const back = detail.opener;
  if (back && back.isConnected) back.focus({preventScroll: true});
}

function showDetail(live) {
  if (!view.follow || byId("detail").hidden) return;
  const row = live.followed ?? live.streams.find((each) => each.request_id === view.follow);
  if (!row) { showOver(live); return; }
  detail.row = row;
  detail.isOver = false;
  byId("end").disabled = false;
  detail.time.push(live.time);
  detail.rate.push(row.tokens_per_second);
  if (detail.time.length > LENGTH) { detail.time.shift(); detail.rate.shift(); }
  detail.chart.setData([detail.time, detail.rate]);
  const slow = row.slow ? `, held by the ${row.slow}` : "";
  setText(byId("detail-state"), `${row.state.replaceAll("_", " ")}${slow}`);
  factGrid(byId("detail-figures"), [
    ["tokens/s", decimal(row.tokens_per_second)],
    ["tokens", row.budget ? `${number(row.tokens)} of ${number(row.budget)}` : number(row.tokens)],
    ["age", seconds(row.age_seconds)],
    ["held", bytes(row.held_bytes)],
    ["pauses", number(row.pauses)],
    ["paused", seconds(row.paused_seconds)],
  ]);
  showSplit(row);
  showFields(row);
}

function showSplit(row) {
  const parts = HOLDERS.map((name) => ({name, spent: row[`${name}_seconds`] ?? 0}));
  each(byId("detail-holders"), parts, () => make("i"), (part, {name, spent}) => {
    setClass(part, name);
    part.style.flex = `${spent} 0 0`;
  });
  each(byId("detail-holder-list"), parts, () => {
    const item = make("li");
    item.append(make("i", "dot"), make("span"));
    return item;
  }, (item, {name, spent}) => {
    setClass(item.firstChild, `dot ${name}`);
    setText(item.lastChild, `${name} ${seconds(spent)}`);
  });
}

const DETAILS = [
  ["worker", "Worker"], ["method", "Method"], ["path", "Path"], ["protocol", "Protocol"], ["client", "Client"],
  ["upstream", "Provider"], ["model", "Model"], ["tenant", "Tenant"], ["user", "User"], ["session", "Session"],
  ["status", "Status"], ["lease_left", "Lease left"], ["unacknowledged_tokens", "Not acknowledged"], ["cost_usd", "Cost"],
  ["bytes_up", "Request"], ["bytes_down", "Answer"], ["held_seconds", "Held for"],
];

function showFields(row) {
  const shown = DETAILS.filter(([name]) => row[name] !== null && row[name] !== undefined);
  const items = shown.flatMap(([name, title]) => [{tag: "DT", value: title}, {tag: "DD", value: fieldText(name, row[name])}]);
  const list = byId("detail-fields");
  if ([...list.children].some((child, index) => child.tagName !== items[index]?.tag)) list.replaceChildren();
  while (list.children.length > items.length) list.lastElementChild.remove();
  items.forEach(({tag, value}, index) => {
    if (!list.children[index]) list.append(make(tag));
    setText(list.children[index], value);
  });
}

function fieldText(name, value) {
  if (name.startsWith("bytes")) return bytes(value);
  if (name.endsWith("seconds")) return seconds(value);
  if (name === "unacknowledged_tokens") return `${number(value)} tokens`;
  if (name === "cost_usd") return dollars(value);
  return typeof value === "number" ? number(value) : String(value);
}

function showOver(live) {
  const end = live.ends.find((each) => each.request_id === view.follow);
  if (detail.isOver && !end) return;
  detail.isOver = true;
  byId("end").disabled = true;
  const how = end ? `Ended: ${end.end.replaceAll("_", " ")}, ${number(end.tokens)} tokens in ${seconds(end.duration_seconds)}` : "It is not open any more.";
  setText(byId("detail-state"), how);
}

// --- ending it ---

const REFUSED = "The relay has no FLOW_ADMIN_TOKEN, so this page is read only. Set it, and start the relay again, to end streams from here.";

async function endStream(event) {
  event.preventDefault();
  const typed = byId("token").value.trim();
  if (typed) remember(sessionStorage, TOKEN, typed);
  const token = typed || remembered(sessionStorage, TOKEN);
  byId("token").value = "";
  if (!token) { askForToken("Type the admin token to end streams."); return; }
  byId("end").disabled = true;
  const id = view.follow;
  try {
    const answer = await fetch("streams/end", {
      method: "POST", headers: {authorization: `Bearer ${token}`}, body: id, cache: "no-store",
    });
    showEndResult(answer.status, (await answer.text()).trim().slice(0, 300));
  } catch {
    setText(byId("end-result"), "The relay does not answer.");
  }
  byId("end").disabled = detail.isOver;
  byId("forget").hidden = remembered(sessionStorage, TOKEN) === null;
}

function showEndResult(status, said) {
  byId("token-label").hidden = true;
  if (status === 401) {
    remember(sessionStorage, TOKEN, null);
    askForToken("This is not the relay's admin token.");
  } else if (status === 403) setText(byId("end-result"), REFUSED);
  else if (status === 404) setText(byId("end-result"), "There is no such stream any more.");
  else if (status === 405) setText(byId("end-result"), "This relay cannot end streams from the page.");
  else if (status >= 200 && status < 300) setText(byId("end-result"), "The relay ends it.");
  else setText(byId("end-result"), `The relay answers ${status}: ${said}`);
}

function askForToken(why) {
  byId("token-label").hidden = false;
  setText(byId("end-result"), why);
  byId("token").focus();
}

function beginDetail() {
  byId("close").addEventListener("click", unfollow);
  byId("end-form").addEventListener("submit", endStream);
  byId("forget").addEventListener("click", () => {
    remember(sessionStorage, TOKEN, null);
    byId("forget").hidden = true;
    setText(byId("end-result"), "Forgotten.");
  });
}
