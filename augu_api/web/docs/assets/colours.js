// A colour for each name: that of the annotated replies (augu_api/detection/drawing.py).

/** Set an element's --colour and --ink, which reads on it at 4.5 to 1 (contrast ratio of WCAG 2.2). */
export function paint(element, name) {
  const colour = colourOf(name);
  const [red, green, blue] = colour.map((c) => (c <= 10 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  element.style.setProperty("--colour", `rgb(${colour})`);
  element.style.setProperty("--ink", 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "black" : "white");
}

function colourOf(name) {
  const hue = crc32(new TextEncoder().encode(name)) % 360;
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.6 - 0.36 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
