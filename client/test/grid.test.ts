// The grid of a room: what people expect of one, two, … nine tiles on a desktop and on a phone.
import { describe, expect, test } from 'vitest';
import { GAP, tileSize } from '../ui/grid';

const DESKTOP = [1256, 676] as const;
const PHONE = [374, 700] as const;

const columns = (stage: readonly [number, number]) => [1, 2, 3, 4, 5, 6, 9].map((count) => tileSize(count, ...stage).columns);

test('columns on a desktop: three leave a centred last one, five are three and two', () => {
  expect(columns(DESKTOP)).toEqual([1, 2, 2, 2, 3, 3, 3]);
});

test('columns on a phone: up to three stand over each other', () => {
  expect(columns(PHONE)).toEqual([1, 1, 1, 2, 2, 2, 2]);
});

describe('every number of tiles fits and keeps its shape', () => {
  for (const [name, stage, narrowest] of [['desktop', DESKTOP, 4 / 3], ['phone', PHONE, 3 / 4]] as [string, readonly [number, number], number][]) {
    test(name, () => {
      for (let count = 1; count <= 49; count++) {
        const { columns, width, height } = tileSize(count, ...stage);
        const rows = Math.ceil(count / columns);
        expect(columns * width + (columns - 1) * GAP).toBeLessThanOrEqual(stage[0]);
        expect(rows * height + (rows - 1) * GAP).toBeLessThanOrEqual(stage[1]);
        // Whole pixels leave a little play.
        expect(width / height).toBeGreaterThan(narrowest - 0.05);
        expect(width / height).toBeLessThan(16 / 9 + 0.05);
      }
    });
  }
});

test('a stage that is not laid out yet has tiles of no size', () => {
  expect(tileSize(3, 0, 0)).toMatchObject({ width: 0, height: 0 });
});
