// Charts of the last minutes.

const LENGTH = 300; // seconds
const MINUTE = 60;
const past = {time: [], tokens_per_second: [], streams: [], held_bytes: [], paused: []};
const charts = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A line from zero, in `place`, over the last minute or, once it is longer, `LENGTH` seconds; `format` writes the values of its axis. */
function lineChart(place, format, hue) {
  const chart = new uPlot({
    width: Math.max(80, place.clientWidth),
    height: Math.max(40, place.clientHeight),
    padding: [6, 16, 0, 0],
    cursor: {y: false, points: {size: 6}, drag: {x: false, y: false}, sync: {key: "page"}},
    legend: {show: false},
    scales: {
      x: {time: true, range: (u, low, high) => [high - (high - low <= MINUTE ? MINUTE : LENGTH), high]},
      y: {range: (u, low, high) => [0, high > 0 ? high * 1.15 : 1]},
    },
    axes: [
      {
        stroke: () => colour("--faint"), font: "10.5px system-ui, sans-serif", size: 18, gap: 2, space: 64,
        grid: {show: false}, ticks: {show: false},
        values: (u, splits) => splits.map((at) => ago(u.scales.x.max - at)),
        splits: (u, axis, low, high) => {
          const step = (high - low > MINUTE ? MINUTE : 15) * (place.clientWidth < 260 ? 2 : 1);
          return [4, 3, 2, 1, 0].map((steps) => high - steps * step).filter((at) => at > low);
        },
      },
      {
        stroke: () => colour("--faint"), font: "10.5px system-ui, sans-serif", size: 46, gap: 4,
        grid: {stroke: () => colour("--line"), width: 1}, ticks: {show: false},
        splits: (u, axis, low, high) => [0, high / 1.15],
        values: (u, splits) => splits.map((value) => format(value)),
      },
    ],
    series: [{}, {
      stroke: () => colour(hue), width: 1.75, points: {show: false}, spanGaps: false,
      fill: () => colour(hue) + "1f",
    }],
  }, [[], []], place);
  new ResizeObserver(() => {
    if (place.clientWidth > 0) chart.setSize({width: place.clientWidth, height: place.clientHeight});
  }).observe(place);
  return chart;
}

function ago(passed) {
  if (passed < 1) return "now";
  return passed < MINUTE ? `−${Math.round(passed)} s` : `−${Math.round(passed / MINUTE)} min`;
}

const TILES = {
  tokens_per_second: {format: decimal, hue: "--accent"},
  streams: {format: number, hue: "--provider"},
  held_bytes: {format: bytes, hue: "--client"},
  paused: {format: number, hue: "--network"},
};

function beginCharts() {
  for (const tile of document.querySelectorAll(".tile")) {
    const name = tile.dataset.chart, place = tile.querySelector(".chart");
    const chart = lineChart(place, TILES[name].format, TILES[name].hue);
    charts.set(name, {chart, tile});
    // What the pointer is at, in place of the latest.
    chart.over.addEventListener("pointermove", () => showTile(name));
    chart.over.addEventListener("pointerleave", () => requestAnimationFrame(() => showTile(name)));
  }
}

function note(live) {
  const last = past.time.at(-1);
  if (last !== undefined && live.time <= last) return;
  if (last !== undefined && live.time - last > 3.5) append(last + 1, null); // a gap, not a line over it
  append(live.time, live.totals);
  while (past.time.length && past.time[0] < live.time - LENGTH) Object.values(past).forEach((all) => all.shift());
}

function append(at, totals) {
  past.time.push(at);
  for (const name of Object.keys(TILES)) past[name].push(totals === null ? null : totals[name]);
}

function showCharts(live) {
  for (const [name, {chart, tile}] of charts) {
    chart.setData([past.time, past[name]]);
    showTile(name);
    const most = past[name].reduce((high, value) => Math.max(high, value ?? 0), 0);
    setText(tile.querySelector(".aside"), `most ${TILES[name].format(most)}`);
  }
  const paused = live.totals.states.waiting_for_tokens;
  if (paused) setText(charts.get("paused").tile.querySelector(".aside"), `${number(paused)} wait for tokens`);
}

function showTile(name) {
  const {chart, tile} = charts.get(name);
  const at = chart.cursor.idx;
  const value = at !== null && at !== undefined && chart.cursor.left >= 0 ? past[name][at] : past[name].at(-1);
  setText(tile.querySelector(".figure"), value === null || value === undefined ? "–" : TILES[name].format(value));
}

function recolourCharts() {
  for (const {chart} of charts.values()) chart.redraw(false, true);
  if (detail.chart) detail.chart.redraw(false, true);
}
