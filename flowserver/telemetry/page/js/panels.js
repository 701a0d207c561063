// Providers, tenants, the relay itself, and the last ends.

function factGrid(parent, facts) {
  each(parent, facts, () => {
    const fact = make("p", "fact");
    fact.append(make("span"), make("b"));
    return fact;
  }, (fact, [name, value]) => {
    setText(fact.firstChild, name);
    setText(fact.lastChild, value);
  });
}

function newCard() {
  const card = make("div", "card"), line = make("div", "line"), name = make("span", "strong");
  name.append(make("i", "dot"), make("span"));
  line.append(name, make("span"));
  card.append(line, make("div", "facts"), make("div", "meters"), make("p", "note"));
  return card;
}

function showCard(card, {title, hue, aside, facts, meters, note: remark}) {
  const [line, grid, bars, last] = card.children;
  setClass(line.firstChild.firstChild, `dot ${hue}`);
  setText(line.firstChild.lastChild, title);
  setText(line.lastChild, aside);
  factGrid(grid, facts);
  grid.hidden = !facts.length;
  each(bars, meters, newMeter, showMeter);
  setText(last, remark);
  last.hidden = !remark;
}

function newMeter() {
  const meter = make("div"), line = make("div", "line"), bar = make("div", "meter");
  line.append(make("span", "note"), make("span", "note"));
  bar.append(make("i"), make("i"));
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  meter.append(line, bar);
  return meter;
}

function showMeter(meter, {name, value, share, further}) {
  const [line, bar] = meter.children, percent = Math.min(100, share * 100);
  setText(line.firstChild, name);
  setText(line.lastChild, value);
  setClass(bar.firstChild, share >= 0.95 ? "bad" : share >= 0.75 ? "client" : "");
  bar.firstChild.style.width = `${percent}%`;
  bar.lastChild.style.width = `${Math.min(100 - percent, (further ?? 0) * 100)}%`;
  bar.setAttribute("aria-label", `${name}: ${value}`);
  bar.setAttribute("aria-valuenow", String(Math.round(percent)));
}

const HEALTH = {closed: ["good", "healthy"], half_open: ["client", "being tried"], open: ["bad", "left alone"]};

// Of each provider the sums a while ago, so that what is shown is recent.
const earlier = new Map();
const RECENT = 60; // seconds

function recent(upstream, at) {
  const seen = earlier.get(upstream.name) ?? [];
  if (seen.length && seen.at(-1).requests > upstream.requests) seen.length = 0; // the relay has started again
  seen.push({at, ...upstream});
  while (seen.length > 2 && seen[0].at < at - RECENT) seen.shift();
  earlier.set(upstream.name, seen);
  const first = seen[0];
  const mean = (sum, count) => (upstream[count] > first[count] ? (upstream[sum] - first[sum]) / (upstream[count] - first[count]) : null);
  return {
    head: mean("head_seconds", "answers"),
    firstToken: mean("first_token_seconds", "first_tokens"),
    failed: upstream.failed - first.failed,
  };
}

function showProviders(live) {
  each(byId("providers"), live.upstreams, newCard, (card, upstream) => {
    const [hue, health] = HEALTH[upstream.health] ?? ["none", upstream.health];
    const late = recent(upstream, live.time);
    const facts = [
      ["open", number(upstream.open)],
      ["waiting", number(upstream.waiting)],
      ["tokens/s", decimal(upstream.tokens_per_second)],
      late.firstToken !== null ? ["first token", seconds(late.firstToken)] : ["answer after", late.head === null ? "–" : seconds(late.head)],
    ];
    const meters = upstream.places ? [{
      name: upstream.adaptive ? "places, adaptive" : "places",
      value: `${number(upstream.open)} of ${number(upstream.places)}`,
      share: upstream.open / upstream.places,
    }] : [];
    const remarks = [];
    if (late.failed > 0) remarks.push(`${number(late.failed)} failed of late`);
    if (upstream.available_in_seconds > 0) remarks.push(`tried again in ${seconds(upstream.available_in_seconds)}`);
    if (upstream.paused > 0) remarks.push(`${number(upstream.paused)} paused`);
    if (upstream.out) remarks.push("taken out by an operator");
    if (upstream.unhealthy) remarks.push(upstream.unhealthy);
    if (upstream.ejected) remarks.push("ejected as an outlier");
    if (upstream.ramp < 1) remarks.push(`starts slowly, at ${Math.round(upstream.ramp * 100)} % of its weight`);
    for (const [kind, left] of Object.entries(upstream.remaining)) remarks.push(`${number(left)} ${kind} left`);
    const isBad = upstream.out || upstream.unhealthy || upstream.ejected;
    showCard(card, {
      title: upstream.name, hue: isBad ? "bad" : hue, aside: isBad ? "out" : health, facts, meters, note: remarks.join(" · "),
    });
  });
}

const LIMITS = {
  requests_per_minute: "requests a minute", tokens_per_minute: "tokens a minute", concurrent: "at once",
  tokens_per_day: "tokens today", tokens_per_month: "tokens this month", usd_per_day: "dollars today",
  usd_per_month: "dollars this month",
};

function showTenants(live) {
  byId("tenants-panel").hidden = !live.tenants.length;
  each(byId("tenants"), live.tenants, newCard, (card, tenant) => {
    const meters = tenant.limits.map((limit) => ({
      name: (LIMITS[limit.name] ?? limit.name.replaceAll("_", " ")) + (limit.models ? ` (${limit.models})` : ""),
      value: limit.name.startsWith("usd_")
        ? `${dollars(limit.used)} of ${dollars(limit.limit)}` : `${number(limit.used)} of ${number(limit.limit)}`,
      share: limit.limit ? limit.used / limit.limit : 0,
      further: limit.limit ? limit.reserved / limit.limit : 0,
    }));
    const isActive = tenant.streams > 0;
    showCard(card, {
      title: tenant.name,
      hue: tenant.disabled ? "bad" : isActive ? "good" : "none",
      aside: tenant.disabled ? "disabled" : isActive ? `${number(tenant.streams)} open · ${decimal(tenant.tokens_per_second)} tok/s` : "idle",
      facts: [], meters, note: "",
    });
  });
}

function showRelay(live) {
  const {memory, process} = live, cards = [], budget = memory.budget_bytes;
  const facts = [
    ["resident", bytes(memory.resident_bytes)],
    ["held", bytes(memory.held_bytes)],
    ["uploads", bytes(memory.uploads_held_bytes)],
    ["clients", number(process.connections ?? 0)],
  ];
  cards.push({
    title: "Memory", hue: memory.level && memory.level !== "normal" ? "bad" : "good", aside: memory.level ?? "",
    facts,
    meters: budget ? [{name: "of the budget", value: `${bytes(memory.used_bytes)} of ${bytes(budget)}`, share: memory.used_bytes / budget}] : [],
    note: "",
  });
  const worst = Math.max(0, ...live.loop.map((worker) => worker.lag_ms));
  cards.push({
    title: live.loop.length > 1 ? "Event loops" : "Event loop", hue: worst > 100 ? "bad" : worst > 20 ? "client" : "good",
    aside: live.loop.length > 1 ? `${live.loop.length} workers` : "",
    facts: live.loop.slice(0, 32).map((worker) => [
      live.loop.length > 1 ? `worker ${worker.worker} late` : "late by", `${worker.lag_ms < 10 ? worker.lag_ms.toFixed(1) : number(worker.lag_ms)} ms`,
    ]).concat(live.loop.length > 1 ? [] : [["CPU", cpu(live)]]),
    meters: [], note: live.loop.length > 1 ? `CPU of all: ${cpu(live)}` : "",
  });
  each(byId("relay"), cards, newCard, showCard);
}

const lastCpu = {at: null, seconds: 0, share: null};

function cpu(live) {
  const used = live.process.cpu_seconds;
  if (used === undefined) return "–";
  if (lastCpu.at !== live.time) {
    const elapsed = live.time - lastCpu.at;
    lastCpu.share = lastCpu.at !== null && used >= lastCpu.seconds && elapsed > 0 ? (used - lastCpu.seconds) / elapsed : null;
    lastCpu.at = live.time;
    lastCpu.seconds = used;
  }
  return lastCpu.share === null ? "–" : `${Math.round(lastCpu.share * 100)} %`;
}

const ENDS = {
  complete: "good", budget: "none", quota: "client", limited: "client", client_gone: "none", client_stalled: "client",
  client_error: "client", refused: "client", relay_stopped: "relay", ended_by_operator: "none",
};
const hueOfEnd = (end) => ENDS[end] ?? "bad";

function showEnds(live) {
  const reasons = Object.entries(live.ends_by_reason).sort((one, other) => other[1] - one[1]);
  each(byId("reasons"), reasons, () => {
    const chip = make("span", "chip");
    chip.append(make("i", "dot"), make("span"), make("b"));
    return chip;
  }, (chip, [reason, count]) => {
    setClass(chip.firstChild, `dot ${hueOfEnd(reason)}`);
    setText(chip.children[1], reason.replaceAll("_", " "));
    setText(chip.lastChild, number(count));
  });
  each(byId("ends"), live.ends.slice(0, 12), () => {
    const item = make("li"), line = make("div", "line"), name = make("span");
    name.append(make("i", "dot"), make("span"));
    line.append(name, make("span", "note"));
    item.append(line, make("div", "note"));
    return item;
  }, (item, end) => {
    const [line, below] = item.children;
    setClass(line.firstChild.firstChild, `dot ${hueOfEnd(end.end)}`);
    setText(line.firstChild.lastChild, `${end.end.replaceAll("_", " ")}${end.status ? ` · ${end.status}` : ""}${end.code ? ` ${end.code}` : ""}`);
    setText(line.lastChild, time(end.time));
    const parts = [end.tenant, end.model ?? end.path, end.upstream === "-" ? null : end.upstream, `${number(end.tokens)} tokens`, seconds(end.duration_seconds)];
    setText(below, parts.filter(Boolean).join(" · "));
    if (item.title !== end.request_id) item.title = end.request_id;
  });
}
