// The ladder: the best levels as rows, with bars that glide to their new length. One canvas, drawn only while it moves.

const ROW = 20, MIDDLE = 30, GLIDE = 0.28, FLASH_MS = 420;

export class Ladder {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.bars = new Map(); // side and price -> [size, total, flash until, quantity]
    this.book = null;
  }

  // book: {bids, asks: [[price, quantity]], priceDecimals, quantityDecimals, spread: text}; colours: of the theme.
  show(book, colours) {
    this.book = book;
    this.colours = colours;
    return this.draw(performance.now());
  }

  rows() {
    return Math.max(3, Math.floor((this.canvas.clientHeight - MIDDLE - 18) / 2 / ROW));
  }

  // Draws; returns whether something still moves.
  draw(now) {
    const { canvas, context: g, book, colours } = this;
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    if (!book) return false;
    const count = this.rows(), bids = book.bids.slice(0, count), asks = book.asks.slice(0, count);
    const total = (levels) => levels.reduce((sum, [, quantity]) => sum + quantity, 0);
    const most = Math.max(total(bids), total(asks)) || 1;
    const largest = Math.max(...bids.map(([, q]) => q), ...asks.map(([, q]) => q), 0) || 1;
    const top = 18 + count * ROW, seen = new Set();
    g.textBaseline = "middle";
    g.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    g.fillStyle = colours.muted;
    this.columns(g, width, 8, "Price", "Size", "Total");
    g.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    let moving = false;
    const side = (levels, name, y, step) => {
      let sum = 0;
      for (const [price, quantity] of levels) {
        sum += quantity;
        const key = name + price, bar = this.bars.get(key) ?? [0, 0, 0, quantity];
        if (bar[3] !== quantity) { bar[2] = now + FLASH_MS; bar[3] = quantity; }
        for (const [place, goal] of [[0, quantity / largest], [1, sum / most]]) {
          const step = (goal - bar[place]) * GLIDE;
          bar[place] = Math.abs(goal - bar[place]) < 0.002 ? goal : bar[place] + step;
          moving ||= bar[place] !== goal;
        }
        this.bars.set(key, bar);
        seen.add(key);
        this.row(g, width, y, name, price, quantity, sum, bar, now);
        moving ||= bar[2] > now;
        y += step;
      }
    };
    side(asks, "ask", top - ROW / 2, -ROW);
    side(bids, "bid", top + MIDDLE + ROW / 2, ROW);
    for (const key of this.bars.keys()) if (!seen.has(key)) this.bars.delete(key);
    g.fillStyle = colours.line;
    g.fillRect(0, top + 4, width, 1);
    g.fillRect(0, top + MIDDLE - 5, width, 1);
    g.fillStyle = colours.muted;
    g.textAlign = "left";
    g.fillText("Spread", 6, top + MIDDLE / 2);
    g.textAlign = "right";
    g.fillText(book.spread, width - 6, top + MIDDLE / 2);
    return moving;
  }

  row(g, width, y, name, price, quantity, sum, bar, now) {
    const { colours, book } = this, colour = colours[name];
    g.fillStyle = colours[name + "Soft"];
    g.fillRect(width * (1 - bar[1]), y - ROW / 2 + 1, width * bar[1], ROW - 2);
    g.globalAlpha = 0.34;
    g.fillStyle = colour;
    g.fillRect(width * (1 - bar[0] * 0.62), y - ROW / 2 + 1, width * bar[0] * 0.62, ROW - 2);
    g.globalAlpha = bar[2] > now ? 0.5 * (bar[2] - now) / FLASH_MS : 0;
    g.fillRect(0, y - ROW / 2 + 1, 3, ROW - 2);
    g.globalAlpha = 1;
    const [p, q, t] = [price.toFixed(book.priceDecimals), quantity.toFixed(book.quantityDecimals), sum.toFixed(book.totalDecimals)];
    this.columns(g, width, y, p, q, t, colour);
  }

  columns(g, width, y, price, size, total, colour) {
    g.textAlign = "right";
    if (colour) g.fillStyle = colour;
    g.fillText(price, width * 0.34, y);
    if (colour) g.fillStyle = this.colours.text;
    g.fillText(size, width * 0.67, y);
    if (colour) g.fillStyle = this.colours.muted;
    g.fillText(total, width - 6, y);
  }
}
