// How many columns a grid of tiles gets and how big its tiles are, so that as much of the stage as possible is picture.

/** Between tiles, in CSS pixels. */
export const GAP = 10;

/** Widest and narrowest shape of a tile (width / height): on upright stages a camera may lose its sides, as on every phone. */
const WIDEST = 16 / 9;
const NARROWEST_LANDSCAPE = 4 / 3;
const NARROWEST_PORTRAIT = 3 / 4;

export interface TileSize {
  columns: number;
  width: number;
  height: number;
}

/** The largest tiles of one size with which `count` of them fit into the stage; the last row may be shorter. */
export function tileSize(count: number, stageWidth: number, stageHeight: number): TileSize {
  const portrait = stageWidth < stageHeight;
  const narrowest = portrait ? NARROWEST_PORTRAIT : NARROWEST_LANDSCAPE;
  let best: TileSize = { columns: 1, width: 0, height: 0 };
  // Four small stripes over each other would be a little larger than two pairs, and look worse.
  for (let columns = portrait && count > 3 ? 2 : 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const cellWidth = Math.max(0, (stageWidth - GAP * (columns - 1)) / columns);
    const cellHeight = Math.max(0, (stageHeight - GAP * (rows - 1)) / rows);
    const width = Math.floor(Math.min(cellWidth, cellHeight * WIDEST));
    const height = Math.floor(Math.min(cellHeight, cellWidth / narrowest));
    if (width * height > best.width * best.height) best = { columns, width, height };
  }
  return best;
}
