//! How pages look: colors that are told apart by people who see few, on light and dark ground.

/// The colors of Okabe and Ito, the darker ones lightened on dark ground. A printer has white paper,
/// whatever the screen shows.
pub(crate) const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#222;--soft:#666;--rule:#ccc;--grid:#e2e2e2;\
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b5578f;--c4:#b87d00;--c5:#3f9fd8;--c6:#7a5c3e;--c7:#777}\
@media screen and (prefers-color-scheme:dark){:root{--paper:#15171a;--ink:#e4e4e4;--soft:#a0a0a0;\
--rule:#444;--grid:#2e3136;--c0:#4ba3e3;--c1:#f0803c;--c2:#2cc79a;--c3:#dc8fbe;--c4:#e6ae35;\
--c5:#8fd0f5;--c6:#c4a07a;--c7:#a8a8a8}}\
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;\
color:var(--ink);background:var(--paper)}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem;margin:1.4rem 0 .4rem}\
table{border-collapse:collapse;font-size:.9rem;width:100%}\
th,td{border-bottom:1px solid var(--rule);padding:.35rem .5rem;text-align:left;vertical-align:top}\
td small{display:block;color:var(--soft);white-space:nowrap}.wide{overflow-x:auto}\
td b{white-space:nowrap}.note{color:var(--soft);font-size:.9rem}\
.gallery{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:132px;break-inside:avoid}\
figure img{width:128px;height:128px;image-rendering:pixelated;border:1px solid var(--rule)}\
figcaption{font-size:.8rem;overflow-wrap:anywhere}\
.charts{display:flex;flex-wrap:wrap;gap:.6rem 1rem}\
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.9rem;margin:.4rem 0}\
.legend span{overflow-wrap:anywhere}\
svg.key{width:34px;height:12px;vertical-align:middle;margin-right:.4rem}\
svg.chart{width:560px;max-width:100%;height:auto;font:12px system-ui,sans-serif;break-inside:avoid}\
svg text{fill:var(--ink)}svg .title{font-size:14px;font-weight:600}\
svg .small{font-size:11px;paint-order:stroke;stroke:var(--paper);stroke-width:3px}\
svg .grid{stroke:var(--grid)}svg .axis{stroke:var(--soft)}\
svg .line{fill:none;stroke:var(--c);stroke-width:2}svg .run{fill:none;stroke:var(--c);\
stroke-width:1;stroke-opacity:.35}svg .mark{fill:var(--c)}svg .cross{stroke:var(--c);\
stroke-width:2;fill:none}svg .bar{stroke:var(--c);stroke-width:1.4;stroke-opacity:.75}\
svg .front{fill:none;stroke:var(--ink);stroke-width:1.2;stroke-dasharray:5 4}\
svg .shade{fill:var(--c);fill-opacity:.09}svg .phase{fill:var(--c)}\
svg .early{fill:var(--c);fill-opacity:.3}\
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}\
.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}\
@media print{body{margin:0;max-width:none;font-size:11pt}svg.chart{width:48%}\
h2,h3{break-after:avoid}}";
