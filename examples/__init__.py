"""Programs with a `main()` that show the toolkit at work; the tests run them at toy size."""
