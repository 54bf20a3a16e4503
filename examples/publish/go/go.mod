module tidegate.example/publish

go 1.24
