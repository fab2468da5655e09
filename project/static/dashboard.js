"use strict";

// Keeps the dashboard current. The page is asked for again with the ETag that it has; where it has
// changed, what is marked as live is taken over from the new one. So what is shown is written in
// one place only, and a page that stays the same costs a 304.

(() => {
  const PAUSE_MS = 1000;
  const LONGEST_PAUSE_MS = 30000;
  const TIMEOUT_MS = 15000;
  // A page that takes long to make is asked for less often; in between only for what is cheap.
  const RESTS = 8;
  // Between an axis and its labels, in CSS pixels.
  const GAP = 6;
  // Between two lines of the chart: 1, 2, 5, 10, 20 …, up to beyond 64 bits.
  const STEPS = [...Array(19).keys()].flatMap((zeros) => [1, 2, 5].map((n) => n * 10 ** zeros));

  const byId = (id) => document.getElementById(id);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // --- the chart: it draws what the table says ---------------------------------------------

  const place = byId("chart");
  let chart = null;

  function series() {
    const rows = [...byId("activity").rows];
    const numbers = (cell) => rows.map((row) => Number(row.cells[cell].textContent.replaceAll(",", "")));
    const times = rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000);
    return [times, numbers(1), numbers(2)];
  }

  function bars(fill) {
    const paths = uPlot.paths.bars({ align: 1, size: [0.82, 48], radius: [0.15, 0] });
    return { fill: color(fill), width: 0, points: { show: false }, paths };
  }

  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const pen = document.createElement("canvas").getContext("2d");

  // Returns the width of the widest label, in CSS pixels.
  function widest(labels) {
    pen.font = font;
    return Math.ceil(Math.max(0, ...labels.map((label) => pen.measureText(label).width)));
  }

  function axis(more) {
    const line = { stroke: color("--line"), width: 1 };
    return { stroke: color("--quiet"), font, gap: GAP, grid: line, ticks: { show: false }, ...more };
  }

  const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "short", timeZone: "UTC" });
  const calendar = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

  // The time of day, or the date at midnight.
  function timeLabels(_, splits) {
    return splits.map((split) => (split % 86400 ? clock : calendar).format(split * 1000));
  }

  function read(plot) {
    const at = plot.cursor.idx;
    const row = at == null ? null : byId("activity").rows[at];
    const [time, attempts, solved] = row ? [...row.cells].map((cell) => cell.textContent) : [];
    byId("readout").textContent = row ? `From ${time} UTC: ${attempts} attempts, ${solved} solved` : "";
  }

  function draw() {
    const data = series();
    const [times] = data;
    const step = times[1] - times[0];
    // A label of the x axis is centered: half of it may lie beyond either end.
    const half = 1 + Math.ceil(widest(timeLabels(null, [...times, times.at(-1) + step])) / 2);
    chart?.destroy();
    chart = new uPlot(
      {
        width: place.clientWidth,
        height: place.clientHeight,
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
        padding: [8, half, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        hooks: { setCursor: [read] },
        scales: {
          x: { range: (_, first, last) => [first, last + step] },
          y: { range: (_, __, most) => [0, Math.max(most * 1.05, 4)] },
        },
        axes: [
          axis({ grid: { show: false }, values: timeLabels, size: 28, space: 64 }),
          axis({ incrs: STEPS, size: (_, labels) => GAP + Math.max(half, widest(labels ?? [])) }),
        ],
        series: [{}, bars("--accent-pale"), bars("--accent")],
      },
      data,
      place,
    );
  }

  place.hidden = false;
  byId("figures").open = false;
  draw();
  new ResizeObserver(() => {
    chart.setSize({ width: place.clientWidth, height: place.clientHeight });
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  // --- staying current ---------------------------------------------------------------------

  const live = byId("live");
  const button = byId("pause");
  const whole = { address: location.href, etag: null };
  const brief = { address: `${location.pathname}?${briefly()}`, etag: null };
  let asking = false;
  let paused = false;
  let pause = PAUSE_MS;
  let timer = null;
  let wholeIsDueAt = 0;

  function briefly() {
    const query = new URLSearchParams(location.search);
    query.set("brief", "");
    return query;
  }

  function say(state, text) {
    live.dataset.state = state;
    // Said only where it changes: a screen reader speaks it.
    if (byId("state").textContent !== text) byId("state").textContent = text;
  }

  // Returns whether anything was another.
  function take(page) {
    let changed = false;
    for (const old of document.querySelectorAll("[data-live]")) {
      const now = page.getElementById(old.id);
      if (!now || now.innerHTML === old.innerHTML) continue;
      mark(old, now);
      old.replaceChildren(...now.childNodes);
      if (old.id === "activity") chart.setData(series());
      changed = true;
    }
    return changed;
  }

  // Figures that have moved show it for a moment.
  function mark(old, now) {
    if (old.tagName === "DD") {
      old.classList.remove("moved");
      requestAnimationFrame(() => old.classList.add("moved"));
    }
    for (const value of now.querySelectorAll(".value")) {
      const before = byId(value.id);
      if (before && before.textContent !== value.textContent) value.classList.add("moved");
    }
  }

  async function ask(page) {
    const answer = await fetch(page.address, {
      headers: page.etag ? { "If-None-Match": page.etag } : {},
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (answer.status === 304) return;
    if (answer.status !== 200) throw new Error(`answered ${answer.status}`);
    const changed = take(new DOMParser().parseFromString(await answer.text(), "text/html"));
    // What is shown now is of this one, so a 304 of the other would not mean that it is so still.
    if (changed) whole.etag = brief.etag = null;
    page.etag = answer.headers.get("ETag");
  }

  async function look() {
    if (asking || paused || document.hidden) return;
    clearTimeout(timer);
    asking = true;
    const began = performance.now();
    const page = began < wholeIsDueAt ? brief : whole;
    try {
      await ask(page);
      const ended = performance.now();
      if (page === whole) wholeIsDueAt = ended + RESTS * (ended - began);
      byId("seen").textContent = new Date().toISOString().slice(11, 19) + " UTC";
      pause = PAUSE_MS;
      if (!paused) say("live", "Live");
    } catch {
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
      if (!paused) say("away", "No answer, trying again");
    }
    asking = false;
    timer = setTimeout(look, pause);
  }

  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Go on" : "Pause";
    if (paused) say("paused", "Paused");
    else look();
  });
  document.addEventListener("visibilitychange", look);
  live.hidden = false;
  look();
})();
