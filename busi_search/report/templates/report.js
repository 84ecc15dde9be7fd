// On paper the figures are as wide as an A4 page, whatever the window was.
function resizeAll(width) {
  document.querySelectorAll(".js-plotly-plot").forEach((plot) => {
    Plotly.relayout(plot, width ? { width: width, autosize: false } : { width: null, autosize: true });
  });
}
window.addEventListener("beforeprint", () => resizeAll(660));
window.addEventListener("afterprint", () => resizeAll(null));
