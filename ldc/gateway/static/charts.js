// What uPlot draws: the depth chart, and mid and spread over time. Made again when the theme or the market changes.

const FONT = "11px system-ui, 'DejaVu Sans', sans-serif";

export function depthChart(element, colours, decimals) {
  const stepped = (align) => uPlot.paths.stepped({ align });
  return new uPlot({
    ...sized(element), legend: { show: false }, padding: [8, 8, 0, 0],
    cursor: { y: false, points: { size: 7 } },
    scales: { x: { time: false } },
    axes: [
      axis(colours, { values: (_u, at) => at.map((price) => price.toFixed(decimals.price)), space: 90, size: 28 }),
      axis(colours, { values: (_u, at) => at.map(short), size: 52 }),
    ],
    series: [{}, line(colours.bid, colours.bidSoft, stepped(-1)), line(colours.ask, colours.askSoft, stepped(1))],
    hooks: { draw: [(u) => horizons(u, colours)] },
  }, [[], [], []], element);
}

export function depthData(bids, asks) {
  const x = [], left = [], right = [];
  let sum = 0;
  for (const [price, quantity] of bids) { sum += quantity; x.push(price); left.push(sum); right.push(null); }
  x.reverse(); left.reverse();
  sum = 0;
  for (const [price, quantity] of asks) { sum += quantity; x.push(price); left.push(null); right.push(sum); }
  return [x, left, right];
}

// Past these prices levels may be missing.
function horizons(u, colours) {
  const g = u.ctx, { left, top, width, height } = u.bbox, ratio = window.devicePixelRatio || 1;
  g.save();
  g.strokeStyle = g.fillStyle = colours.warn;
  g.setLineDash([5 * ratio, 4 * ratio]);
  g.lineWidth = ratio;
  g.font = `${11 * ratio}px system-ui, 'DejaVu Sans', sans-serif`;
  (u.horizons ?? []).forEach((price, at) => {
    if (price < u.scales.x.min || price > u.scales.x.max) return;
    const x = u.valToPos(price, "x", true);
    g.beginPath(); g.moveTo(x, top); g.lineTo(x, top + height); g.stroke();
    g.textAlign = at ? "right" : "left";
    g.fillText("horizon", x + (at ? -6 : 6) * ratio, top + 12 * ratio);
  });
  g.restore();
}

export function timeChart(element, colours, decimals) {
  return new uPlot({
    ...sized(element), legend: { show: false }, padding: [8, 0, 0, 0],
    cursor: { points: { size: 7 } },
    scales: { x: { time: true }, spread: { range: (_u, _low, high) => [0, (high || 1) * 3] } },
    axes: [
      axis(colours, { values: (_u, at) => at.map(clock), space: 80, size: 28 }),
      axis(colours, { values: (_u, at) => at.map((price) => price.toFixed(decimals.price)), size: 78 }),
      axis(colours, { scale: "spread", side: 1, values: (_u, at) => at.map((value) => value.toFixed(decimals.price)), size: 58, grid: { show: false } }),
    ],
    series: [{}, line(colours.accent), { ...line(colours.warn, colours.warn + "22"), scale: "spread", width: 1 }],
  }, [[], [], []], element);
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

function sized(element) {
  return { width: Math.max(80, element.clientWidth), height: Math.max(60, element.clientHeight) };
}

export function fit(chart, element) {
  const size = sized(element);
  if (chart && (chart.width !== size.width || chart.height !== size.height)) chart.setSize(size);
}

function axis(colours, more) {
  return { stroke: colours.muted, font: FONT, grid: { stroke: colours.line, width: 1 }, ticks: { show: false }, ...more };
}

function line(stroke, fill, paths) {
  return { stroke, fill, paths, width: 1.5, points: { show: false } };
}

export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  return size >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : `${+value.toPrecision(3)}`;
}
