// The heatmap: resting quantity by price over the last minutes. A column is a moment, a cell a range of prices.

export const COLUMNS = 480, COLUMN_MS = 500;
const BINS = 132, COLUMNS_MIN = 120, AXIS = 74, FOOT = 18, SHADES = 64;

// What is kept of a market: the last columns, oldest first.
export class Columns {
  constructor() { this.list = []; }

  add(bids, asks, horizons, at) {
    this.list.push({ at, bids, asks, horizons, bid: bids[0]?.[0], ask: asks[0]?.[0] });
    if (this.list.length > COLUMNS) this.list.shift();
  }

  gap(at) { // nothing is known of this moment
    this.list.push({ at, bids: [], asks: [], horizons: [], bid: undefined, ask: undefined });
    if (this.list.length > COLUMNS) this.list.shift();
  }
}

export class Heat {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.image = document.createElement("canvas");
    this.image.width = COLUMNS;
    this.image.height = BINS;
    this.pixels = this.image.getContext("2d");
    this.zoom = 1;
    this.columns = null;
  }

  setColours(colours) {
    this.colours = colours;
    const ramp = (name) => Array.from({ length: SHADES }, (_, i) => {
      const share = i / (SHADES - 1), [from, to, end] = [colours.panel, colours[name], colours.dark ? "#ffffff" : "#06121f"].map(parsed);
      const [a, b, s] = share < 0.72 ? [from, to, share / 0.72] : [to, end, (share - 0.72) / 0.28 * 0.75];
      const [r, g, bl] = a.map((value, at) => Math.round(value + (b[at] - value) * s));
      return (255 << 24) | (bl << 16) | (g << 8) | r;
    });
    this.ramps = { bids: ramp("bid"), asks: ramp("ask") };
    this.nothing = 0;
  }

  show(columns, decimals) {
    if (columns !== this.columns) { this.columns = columns; this.range = null; this.scale = 0; }
    this.decimals = decimals;
    this.draw();
  }

  // The prices that are shown: they stay until the market leaves their middle, so that nothing jumps.
  ranged(list) {
    const last = list.findLast((column) => column.bid && column.ask);
    if (!last) return null;
    const mid = (last.bid + last.ask) / 2;
    const far = (levels) => Math.abs((levels[Math.min(levels.length - 1, 150)] ?? [mid])[0] - mid);
    const reach = Math.max(far(last.bids), far(last.asks)) * 1.1 / this.zoom || mid * 0.001;
    const range = this.range;
    if (!range || range.zoom !== this.zoom || Math.abs(mid - range.mid) > range.reach * 0.55 || reach > range.reach * 1.8 || reach < range.reach * 0.45) {
      this.range = { mid, reach, zoom: this.zoom, low: mid - reach, high: mid + reach };
    }
    return this.range;
  }

  draw() {
    const { canvas, context: g, colours } = this, ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    const list = this.columns?.list ?? [], range = list.length ? this.ranged(list) : null;
    if (!range) return;
    this.shown = Math.max(COLUMNS_MIN, list.length); // the picture fills its place after a minute
    this.paint(list, range);
    const w = width - AXIS, h = height - FOOT;
    g.imageSmoothingEnabled = false;
    g.drawImage(this.image, COLUMNS - this.shown, 0, this.shown, BINS, 0, 0, w, h);
    const y = (price) => h * (range.high - price) / (2 * range.reach), x = (at) => w * (this.shown - list.length + at + 0.5) / this.shown;
    for (const [name, colour] of [["bid", colours.bid], ["ask", colours.ask]]) {
      g.beginPath();
      let pen = false;
      list.forEach((column, at) => {
        const price = column[name];
        if (price === undefined) { pen = false; return; }
        if (pen) g.lineTo(x(at), y(price)); else g.moveTo(x(at), y(price));
        pen = true;
      });
      g.strokeStyle = colour;
      g.lineWidth = 1.3;
      g.stroke();
    }
    this.axes(g, w, h, y, range, list);
  }

  paint(list, range) {
    const image = this.pixels.createImageData(COLUMNS, BINS), cells = new Uint32Array(image.data.buffer);
    const sums = { bids: new Float64Array(BINS), asks: new Float64Array(BINS) }, per = BINS / (2 * range.reach);
    let peak = 0;
    const start = COLUMNS - list.length, scale = this.scale || 1;
    list.forEach((column, at) => {
      for (const name of ["bids", "asks"]) {
        const bins = sums[name].fill(0), levels = column[name], ramp = this.ramps[name];
        for (let i = 0; i < levels.length; i++) {
          const bin = Math.floor((range.high - levels[i][0]) * per);
          if (bin >= 0 && bin < BINS) bins[bin] += levels[i][1];
        }
        for (let bin = 0; bin < BINS; bin++) {
          if (!bins[bin]) continue;
          if (bins[bin] > peak) peak = bins[bin];
          const share = Math.log1p(8 * bins[bin] / scale) / 2.2;
          cells[bin * COLUMNS + start + at] = ramp[Math.min(SHADES - 1, 4 + Math.floor(share * (SHADES - 5)))];
        }
      }
    });
    this.scale = this.scale ? this.scale + (peak - this.scale) * 0.1 : peak;
    this.pixels.putImageData(image, 0, 0);
  }

  axes(g, w, h, y, range, list) {
    const { colours } = this, step = nice(2 * range.reach / Math.max(3, h / 46));
    const last = list[list.length - 1], tag = last.bid && last.ask ? y((last.bid + last.ask) / 2) : -99;
    g.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    g.textBaseline = "middle";
    g.textAlign = "left";
    for (let price = Math.ceil(range.low / step) * step; price < range.high; price += step) {
      g.fillStyle = colours.line;
      g.globalAlpha = 0.55;
      g.fillRect(0, y(price), w, 1);
      g.globalAlpha = 1;
      g.fillStyle = colours.muted;
      if (y(price) > 8 && y(price) < h - 4 && Math.abs(y(price) - tag) > 16) g.fillText(price.toFixed(this.decimals), w + 8, y(price));
    }
    g.setLineDash([5, 4]);
    g.strokeStyle = colours.warn;
    for (const horizon of last.horizons) {
      if (horizon > range.low && horizon < range.high) {
        g.beginPath(); g.moveTo(0, y(horizon)); g.lineTo(w, y(horizon)); g.stroke();
        g.fillStyle = colours.warn;
        g.fillText("horizon", 6, y(horizon) + (horizon > range.mid ? -8 : 9));
      }
    }
    g.setLineDash([]);
    if (last.bid && last.ask) {
      const mid = (last.bid + last.ask) / 2;
      g.fillStyle = colours.accent;
      g.fillRect(w + 2, y(mid) - 9, AXIS - 3, 18);
      g.fillStyle = colours.panel;
      g.fillText(mid.toFixed(this.decimals), w + 8, y(mid) + 0.5);
    }
    g.fillStyle = colours.muted;
    g.textAlign = "center";
    for (let minutes = 1; minutes * 60000 < this.shown * COLUMN_MS * 0.95; minutes++) {
      g.fillText(`−${minutes} min`, w * (1 - minutes * 60000 / (this.shown * COLUMN_MS)), h + FOOT / 2 + 2);
    }
    g.textAlign = "right";
    g.fillText("now", w, h + FOOT / 2 + 2);
  }
}

function parsed(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step)), rest = step / power;
  return power * (rest > 5 ? 10 : rest > 2 ? 5 : rest > 1 ? 2 : 1);
}
