// Charts follow the page: dark on a dark screen, and on paper as wide as an A4 page, in black.
const darkScreen = window.matchMedia("(prefers-color-scheme: dark)");

function styleOf(plot, dark) {
  const ink = dark ? "#e6e6e6" : "#1a1a1a";
  const style = { "font.color": ink };
  Object.keys(plot._fullLayout || plot.layout).filter((key) => /^[xy]axis\d*$/.test(key)).forEach((axis) => {
    style[axis + ".linecolor"] = ink;
    style[axis + ".tickcolor"] = ink;
  });
  return style;
}

function drawAll(dark, width) {
  document.querySelectorAll(".js-plotly-plot").forEach((plot) => {
    const size = width ? { width: width, autosize: false } : { width: null, autosize: true };
    Plotly.relayout(plot, { ...styleOf(plot, dark), ...size });
  });
}

function markTables() {
  document.querySelectorAll(".table").forEach((table) => {
    table.classList.toggle("scrolls", table.scrollWidth > table.clientWidth + 1);
  });
}

document.querySelectorAll(".table").forEach((table) => {
  table.tabIndex = 0;
  const cue = document.createElement("p");
  cue.className = "scroll-cue";
  cue.textContent = "Scroll the table sideways for more columns →";
  table.after(cue);
});
markTables();
window.addEventListener("resize", markTables);
if (darkScreen.matches) drawAll(true, null);
darkScreen.addEventListener("change", () => drawAll(darkScreen.matches, null));
window.addEventListener("beforeprint", () => drawAll(false, 660));
window.addEventListener("afterprint", () => drawAll(darkScreen.matches, null));
