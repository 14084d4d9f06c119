// Starts all parts.

takeStory();
startToken(() => { reopenFeed(); showKeys(); });
startNodes();
startMap();
startCharts();
startFeed();
startKeys();
$('banner-stay').addEventListener('click', () => { cluster.stays = true; showBanner(); });
darkness.addEventListener('change', () => {
  if (!cluster.status) return;
  drawMap();
  drawCharts();
  showNodes(cluster.status);
  if (map.table) showLegend(cluster.status);
});
pollCluster();
