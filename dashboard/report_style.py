"""How the report looks and what draws its charts: a style sheet and a script, both written into the file."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

STYLE = """
:root{--ink:#1e293b;--soft:#526075;--line:#d5dbe3;--box:#f4f6f8;--paper:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e5e9ef;--soft:#a6b0bf;--line:#3a4452;--box:#1f2731;--paper:#14181d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 FONT}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem;overflow-wrap:anywhere}
h1{font-size:1.9rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.5rem;margin:2.5rem 0 1rem;padding-top:1rem;border-top:2px solid var(--line)}
h3{font-size:1.2rem;margin:2rem 0 .6rem}
h4{font-size:1rem;margin:1.2rem 0 .4rem}
a{color:inherit}
.small,figcaption{color:var(--soft);font-size:.86rem}
small{color:var(--soft);font-size:.9em}
td small{white-space:nowrap}
.note{border-left:4px solid #b97a00;padding:.4rem .9rem;background:var(--box)}
.verdict{border-left:4px solid #808080;background:var(--box);padding:.8rem 1.1rem;margin:1rem 0}
.lead{font-size:1.2rem;margin:.2rem 0 .8rem}
.decisions{list-style:none;padding:0;margin:0}
.decisions>li{margin:.5rem 0}
.decisions ul{list-style:none;padding-left:1rem;margin:.2rem 0;color:var(--soft);font-size:.92rem}
.decision{font-weight:700;border:1.5px solid currentColor;border-radius:1rem;padding:.05rem .6rem;white-space:nowrap}
.backend{white-space:nowrap}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--line);padding:.35rem .6rem .35rem 0;text-align:left;vertical-align:top;
  overflow-wrap:normal}
td.text{min-width:14rem;overflow-wrap:anywhere}
.facts th{font-weight:400;color:var(--soft);width:38%}
.facts td{overflow-wrap:anywhere}
figure{margin:2rem 0;break-inside:avoid}
figure h4{margin:0 0 .2rem}
.about{margin:0;color:var(--soft);font-size:.86rem}
.places th{white-space:nowrap}
.plot img{display:none}
summary{cursor:pointer;color:var(--soft);font-size:.9rem}
@page{size:A4;margin:16mm 14mm}
@media print{
  :root{--ink:#000;--soft:#444;--line:#bbb;--box:#f4f4f4;--paper:#fff}
  body{font-size:10pt}
  main{max-width:none;padding:0}
  h1{font-size:18pt}h2{font-size:14pt}h3{font-size:12pt}h4{font-size:10.5pt}
  section{break-before:page}
  section:first-of-type:last-of-type{break-before:auto}
  h2,h3,h4{break-after:avoid}
  tr,.verdict,.decisions>li{break-inside:avoid}
  thead{display:table-header-group}
  .wide{overflow:visible}
  table{font-size:8.5pt}
  td.text{min-width:0}
  td small{white-space:normal}
  details{display:none}
  .plot>:not(img){display:none!important}
  .plot img{display:block;width:100%;height:auto}
  *{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
""".replace("FONT", FONT)

# Each chart twice: one that answers the pointer, in the colours of the screen, and a picture for paper, where a live
# chart would keep the width of the screen and be cut off.
SCRIPT = """
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const family = "FONT";
const inked = (layout, color) => ({...layout, font: {...layout.font, color, family}});
const screen_ink = () => dark.matches ? "#e5e9ef" : "#1e293b";
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
""".replace("FONT", FONT.replace("'", ""))
