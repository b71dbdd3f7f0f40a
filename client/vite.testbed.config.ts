import { defineConfig } from 'vite';

// The page that the browser tests drive: the SDK and both lines of mediasoup-client as globals. Never shipped.
export default defineConfig({
  root: 'test/testbed',
  base: './',
  build: {
    outDir: '../../test-dist',
    emptyOutDir: true,
    target: 'es2022',
    minify: false,
    chunkSizeWarningLimit: 2000,
    rollupOptions: { input: 'test/testbed/testbed.html' },
  },
});
