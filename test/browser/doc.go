// Package browser looks at the pages in a real browser, Debian's Chromium driven
// by playwright-core:
//
//	make browser          against `looptape demo`
//	page.mjs              the test itself; it takes any running server
//	look.mjs              pictures of every page, for people
//	preview               a server over a made-up log, for work on the pages
//
// Pictures go to $ARTIFACTS, by default artifacts/ of the repository.
package browser
