import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// The pages are embedded in the binary from internal/web/dist. The placeholder
// there is committed for `go test`; it is left alone.
export default defineConfig({
  plugins: [react()],
  build: {
    outDir: '../internal/web/dist',
    emptyOutDir: false,
    assetsInlineLimit: 0, // the content policy allows files, not inlined ones
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 600,
  },
  server: { proxy: { '/v1': 'http://127.0.0.1:8080' } },
})
