// Draws the figure in `props.value` with plotly.js, and tells which cell was chosen: by a click, or with the arrow keys
// and Enter.
const node = element.querySelector(".plot");
node.setAttribute("aria-label", props.caption);
const settings = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };
let cell = [0, 0];

// The script takes a while to run, so what is on the page is painted first; one for all figures.
const plotly = (window.neuroglotPlotly ??= new Promise((done, fail) => {
  requestAnimationFrame(() => setTimeout(() => {
    const script = document.createElement("script");
    Object.assign(script, { src: props.script, onload: done, onerror: fail });
    document.head.append(script);
  }, 50));
}));

const choose = (point) => trigger("click", { x: String(point.x), y: String(point.y), text: String(point.text ?? "") });

const draw = async () => {
  if (!props.value) return;
  await plotly;
  const figure = JSON.parse(props.value);
  await Plotly.react(node, figure.data, figure.layout, settings);
  node.querySelector(".first")?.remove();
  if (!node.dataset.drawn) {
    node.on("plotly_click", (event) => choose(event.points[0]));
    new ResizeObserver(() => { if (node.offsetWidth) Plotly.Plots.resize(node); }).observe(element);
  }
  node.dataset.drawn = String(Number(node.dataset.drawn ?? 0) + 1);
};

node.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const trace = node.data?.[0];
  if (trace?.type !== "heatmap") return;
  if (event.key in steps) {
    event.preventDefault();
    const [down, right] = steps[event.key];
    const within = (value, size) => Math.max(0, Math.min(size - 1, value));
    cell = [within(cell[0] + down, trace.y.length), within(cell[1] + right, trace.x.length)];
    Plotly.Fx.hover(node, [{ curveNumber: 0, pointNumber: cell }]);
  } else if (event.key === "Enter") {
    choose({ x: trace.x[cell[1]], y: trace.y[cell[0]], text: trace.text?.[cell[0]]?.[cell[1]] });
  }
});

watch("value", draw);
draw();
