"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const {fontFamily: family} = getComputedStyle(document.body);
const inked = (layout, color) => ({...layout, font: {...layout.font, color, family}});
const screen_ink = () => getComputedStyle(document.body).color;
const config = {displayModeBar: false, responsive: true};
const plots = [...document.querySelectorAll(".plot")];
window.drawn = Promise.all(plots.map(async (place) => {
  const {data, layout} = figures[Number(place.dataset.figure)];
  const live = document.createElement("div");
  place.append(live);
  const height = Math.min(layout.height || 360, 340);  // two to a page
  const paper = await Plotly.toImage(
    {data: structuredClone(data), layout: {...inked(structuredClone(layout), "#000"), width: 700, height}},
    {format: "svg", width: 700, height});
  const picture = document.createElement("img");
  picture.alt = "";
  picture.src = paper;
  place.append(picture);
  await Plotly.newPlot(live, data, inked(layout, screen_ink()), config);
}));
dark.addEventListener("change", () => {
  for (const place of plots) Plotly.relayout(place.firstElementChild, {"font.color": screen_ink()});
});
