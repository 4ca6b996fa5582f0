// Puts the page together.

import { get } from "./api.js";
import { mountCollections, poll } from "./collections.js";
import { mountDetail } from "./detail.js";
import { mountFilters } from "./filters.js";
import { follow, mountLink } from "./link.js";
import { mountQuery, setLimits } from "./query.js";
import { mountResults, setMostHits } from "./results.js";
import { mountUpload } from "./upload.js";

mountQuery();
mountFilters();
mountCollections();
mountDetail();
mountUpload();
mountLink();
mountResults();
follow();
poll();
get("/v1/info").then(({ limits }) => {
  setLimits(limits);
  setMostHits(limits.max_search_limit);
}).catch(() => {});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the query, not a place on the page
  document.getElementById("results").focus();
});
